// Paint on the token map: cells that stay or are made anew whatever the sliders say, by true time steps.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const KEEP = 1;
  const MAKE = 2;
  const MOST_UNDO = 30;

  // Cells (levels x steps): 0 = as the sliders say, 1 = stays, 2 = is made anew.
  class Paint {
    constructor(levels, steps) {
      this.levels = levels;
      this.steps = steps;
      this.cells = new Uint8Array(levels * steps);
      this.undone = [];
    }

    // As `read_paint` of vampnet/studio/paint.py takes it; null where nothing is painted.
    value() {
      const found = { keep: [], make: [] };
      for (let level = 0; level < this.levels; level++) {
        const row = this.cells.subarray(level * this.steps, (level + 1) * this.steps);
        for (let i = 0; i < this.steps; ) {
          let j = i + 1;
          while (j < this.steps && row[j] === row[i]) j++;
          if (row[i]) found[row[i] === KEEP ? "keep" : "make"].push([level, i, j]);
          i = j;
        }
      }
      if (!found.keep.length && !found.make.length) return null;
      return { levels: this.levels, steps: this.steps, ...found };
    }

    take(value) {
      this.cells.fill(0);
      if (!value || value.levels !== this.levels || value.steps !== this.steps) return;
      for (const [runs, what] of [[value.keep, KEEP], [value.make, MAKE]]) {
        for (const [level, start, stop] of runs) this.fill(level, level + 1, start, stop, what);
      }
    }

    fill(low, high, start, stop, what) {
      const from = Math.max(0, start);
      const to = Math.min(this.steps, stop);
      for (let level = Math.max(0, low); level < Math.min(this.levels, high); level++) {
        if (to > from) this.cells.fill(what, level * this.steps + from, level * this.steps + to);
      }
    }

    remember() {
      this.undone.push(this.cells.slice());
      if (this.undone.length > MOST_UNDO) this.undone.shift();
    }

    undo() {
      if (!this.undone.length) return false;
      this.cells = this.undone.pop();
      return true;
    }

    get any() {
      return this.cells.some((cell) => cell !== 0);
    }
  }

  // What stays in the end, a byte a cell: the sliders' bits with paint over them, and nothing where all is made anew.
  studio.finalMask = (data, base, paint) => {
    const { steps, levels, open } = data;
    const out = new Uint8Array(levels * steps);
    for (let level = 0; level < levels; level++) {
      for (let t = open[0]; t < open[1]; t++) {
        const i = level * steps + t;
        out[i] = paint.cells[i] ? Number(paint.cells[i] === KEEP) : base[i];
      }
    }
    return out;
  };

  studio.bitsOf = (packed, count) => {
    const out = new Uint8Array(count);
    for (let i = 0; i < count; i++) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
    return out;
  };

  // The time steps [start, stop) of the bar that holds a step; of a second where there are no bars.
  studio.barAt = (data, step) => {
    const at = (seconds) => Math.floor(seconds / data.step + 1e-6);
    const lines = data.downbeats.length ? data.downbeats.map(at) : [];
    if (!lines.length) for (let second = 0; second < data.seconds; second++) lines.push(at(second));
    const inside = lines.filter((line) => line <= step);
    const after = lines.find((line) => line > step);
    return [inside.length ? inside[inside.length - 1] : 0, after === undefined ? data.steps : after];
  };

  // The steps and levels that a brush covers of a rectangle: [low, high, start, stop).
  studio.underBrush = (data, brush, [low, high, start, stop]) => {
    if (brush === "step") return [0, data.levels, start, stop];
    if (brush === "level") return [low, high, 0, data.steps];
    if (brush === "bar") return [0, data.levels, studio.barAt(data, start)[0], studio.barAt(data, stop - 1)[1]];
    return [low, high, start, stop];
  };

  studio.Paint = Paint;
  studio.PAINT = { keep: KEEP, make: MAKE, erase: 0 };
})();
