// Draws the token map: waveform and region, then the codebook levels, the coarsest on top, over the source's spectrogram.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const GUTTER = 50;
  const RIGHT = 10;
  const AXIS = 22;
  const BREAK = 5;
  const WAVE = 58;
  // Hue says what stays, brightness how loud the source is there: each from silence to the loudest.
  const KEPT = [[186, 118, 38], [255, 226, 160]];
  const MADE = [[24, 26, 33], [88, 96, 116]];
  const COLOURS = {
    ground: "#15161a",
    wave: "#6a6f7c",
    waveKept: "#f6b24c",
    beat: "rgba(232, 230, 225, 0.22)",
    bar: "rgba(232, 230, 225, 0.62)",
    text: "#b4b4ba",
    hatch: "rgba(232, 230, 225, 0.16)",
    region: "#f6b24c",
    shade: "rgba(21, 22, 26, 0.62)",
    marks: [[255, 255, 255], [120, 182, 255]],
  };

  const mixed = ([low, high], share) => low.map((value, i) => Math.round(value + (high[i] - value) * share));
  const flat = (colours, share) => `rgb(${mixed(colours, share).join(", ")})`;

  studio.mapGeometry = (width, height) => {
    const waveTop = 8;
    const top = waveTop + WAVE + 12;
    return { left: GUTTER, room: width - GUTTER - RIGHT, waveTop, waveHeight: WAVE, top, bottom: height - AXIS, height };
  };

  // The row of a level: [y, height], counted from the top of the cells.
  const rowOf = (data, level, high) => {
    const each = (high - BREAK) / data.levels;
    return [level * each + (level >= data.coarse ? BREAK : 0), each];
  };
  studio.levelAt = (data, y, high) => {
    for (let level = data.levels - 1; level > 0; level--) if (y >= rowOf(data, level, high)[0]) return level;
    return 0;
  };
  studio.rowOf = rowOf;

  function canvasOf(width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    return canvas;
  }

  // The spectrogram in the colours of what stays and of what is made, drawn once a source.
  studio.prepareGround = (value) => {
    const { rows, columns } = value;
    const levels = Uint8Array.from(atob(value.image), (letter) => letter.charCodeAt(0));
    const painted = [KEPT, MADE].map((colours) => {
      const table = Array.from({ length: 256 }, (_, i) => mixed(colours, i / 255));
      const canvas = canvasOf(columns, rows);
      const pen = canvas.getContext("2d");
      const image = pen.createImageData(columns, rows);
      for (let i = 0; i < levels.length; i++) {
        image.data.set(table[levels[i]], 4 * i);
        image.data[4 * i + 3] = 255;
      }
      pen.putImageData(image, 0, 0);
      return canvas;
    });
    return { sound: value.sound, seconds: value.seconds, columns, rows, kept: painted[0], made: painted[1] };
  };

  // One row of pixels a level: how much of each column stays, and below these, what was painted there.
  function rowsOf({ data, kept, paint }, wide, ratio) {
    const { levels, steps, step, seconds } = data;
    const image = new ImageData(wide, 2 * levels);
    const perColumn = seconds / step / wide;
    // Cells of a few pixels get a hairline between them, narrower ones touch.
    const hair = 1 / perColumn / ratio >= 4;
    for (let x = 0; x < wide; x++) {
      const dense = perColumn > 1;
      const first = Math.min(steps - 1, Math.floor((dense ? x : x + 0.5) * perColumn));
      const last = dense ? Math.min(steps, Math.max(first + 1, Math.ceil((x + 1) * perColumn))) : first + 1;
      const thin = hair && Math.floor((x + 1.5) * perColumn) !== first ? 0.25 : 1;
      for (let level = 0; level < levels; level++) {
        let count = 0;
        let mark = 0;
        for (let t = first; t < last; t++) {
          count += kept[level * steps + t];
          mark = paint.cells[level * steps + t] || mark;
        }
        image.data[4 * (level * wide + x) + 3] = (255 * thin * count) / (last - first);
        if (mark) image.data.set([...COLOURS.marks[mark - 1], 255 * thin], 4 * ((levels + level) * wide + x));
      }
    }
    const canvas = canvasOf(wide, 2 * levels);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // The part of the spectrogram that is vamped, at its place.
  function spread(pen, state, which, width, height) {
    const { data, ground } = state;
    const [from, to] = data.inner.map((time) => (time / data.seconds) * width);
    if (!ground || !data.track || ground.sound !== data.track.sound) {
      pen.fillStyle = which === "kept" ? flat(KEPT, 0.5) : flat(MADE, 0.3);
      pen.fillRect(0, 0, width, height);
      return;
    }
    const scale = ground.columns / ground.seconds;
    const start = data.track.start * scale;
    const length = Math.max(1, (data.track.end - data.track.start) * scale);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(ground[which], start, 0, Math.min(length, ground.columns - start), ground.rows, from, 0, to - from, height);
  }

  function drawCells(pen, state, at, ratio) {
    const { data } = state;
    const wide = Math.max(1, Math.round(at.room * ratio));
    const high = Math.max(1, Math.round((at.bottom - at.top) * ratio));
    const rows = rowsOf(state, wide, ratio);
    const layer = canvasOf(wide, high);
    const ink = layer.getContext("2d");
    const place = (level) => rowOf(data, level, high).map(Math.round);
    ink.imageSmoothingEnabled = false;
    for (let level = 0; level < data.levels; level++) ink.drawImage(rows, 0, level, wide, 1, 0, ...swap(place(level), wide));
    ink.globalCompositeOperation = "source-in";
    spread(ink, state, "kept", wide, high);
    const under = canvasOf(wide, high);
    const base = under.getContext("2d");
    base.fillStyle = flat(MADE, 0);
    base.fillRect(0, 0, wide, high);
    spread(base, state, "made", wide, high);
    hatch(base, state, wide, high, ratio);
    base.drawImage(layer, 0, 0);
    base.imageSmoothingEnabled = false;
    base.fillStyle = COLOURS.ground;
    for (let level = 0; level < data.levels; level++) {
      const [y, each] = place(level);
      const mark = Math.max(2, Math.round(each / 6));
      base.drawImage(rows, 0, data.levels + level, wide, 1, 0, y + each - mark - ratio, wide, mark);
      base.fillRect(0, y + each - ratio, wide, ratio + (level === data.coarse - 1 ? BREAK * ratio : 0));
    }
    pen.drawImage(under, at.left, at.top, at.room, at.bottom - at.top);
  }
  const swap = ([y, each], wide) => [y, wide, each];

  // What was added has no sound yet.
  function hatch(pen, { data }, wide, high, ratio) {
    const [from, to] = data.inner.map((time) => (time / data.seconds) * wide);
    pen.strokeStyle = COLOURS.hatch;
    pen.lineWidth = ratio;
    for (const [start, end] of [[0, from], [to, wide]]) {
      if (end - start < 2 * ratio) continue;
      pen.save();
      pen.beginPath();
      pen.rect(start, 0, end - start, high);
      pen.clip();
      pen.beginPath();
      for (let x = start - high; x < end; x += 9 * ratio) {
        pen.moveTo(x, high);
        pen.lineTo(x + high, 0);
      }
      pen.stroke();
      pen.restore();
    }
  }

  function drawWave(pen, state, at) {
    const { data, wave, kept, region } = state;
    const middle = at.waveTop + at.waveHeight / 2;
    const x = (time) => at.left + (time / data.seconds) * at.room;
    if (!wave.length) {
      pen.fillStyle = COLOURS.text;
      pen.font = "13px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.fillText(studio.say("map.empty"), at.left + at.room / 2, middle + 5);
      return;
    }
    const n = wave.length / 2;
    const [from, to] = data.inner.map(x);
    for (let column = 0; column < to - from; column++) {
      const first = Math.floor((column * n) / (to - from));
      const last = Math.max(first + 1, Math.floor(((column + 1) * n) / (to - from)));
      let low = 127;
      let high = -128;
      for (let i = first; i < last && i < n; i++) {
        low = Math.min(low, wave[i]);
        high = Math.max(high, wave[n + i]);
      }
      const time = ((from + column - at.left) / at.room) * data.seconds;
      const step = Math.min(data.steps - 1, Math.floor(time / data.step));
      pen.fillStyle = kept[step] ? COLOURS.waveKept : COLOURS.wave;
      const up = Math.max(0.5, (high / 127) * (at.waveHeight / 2));
      pen.fillRect(from + column, middle - up, 1, up + Math.max(0.5, (-low / 127) * (at.waveHeight / 2)));
    }
    if (!region) return;
    const [start, end] = region.map((time) => x(data.inner[0] + time));
    pen.fillStyle = COLOURS.shade;
    pen.fillRect(from, at.waveTop, start - from, at.waveHeight);
    pen.fillRect(end, at.waveTop, to - end, at.waveHeight);
    pen.fillStyle = COLOURS.region;
    pen.fillRect(start, at.waveTop, end - start, 2);
    pen.fillRect(start, at.waveTop + at.waveHeight - 2, end - start, 2);
  }

  function ticks(seconds, room) {
    const most = Math.max(2, Math.floor(room / 64));
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120].find((s) => seconds / s <= most) || 300;
    return Array.from({ length: Math.floor(seconds / step + 1e-6) + 1 }, (_, i) => ({ at: i * step, step }));
  }

  const clock = (at, step) => {
    if (step >= 60) return `${Math.floor(at / 60)}:${String(Math.round(at % 60)).padStart(2, "0")}`;
    return at.toFixed(step < 1 ? 1 : 0) + studio.say("map.second");
  };

  function drawLabels(pen, { data }, at) {
    pen.fillStyle = COLOURS.text;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const middle = (level) => {
      const [y, each] = rowOf(data, level, at.bottom - at.top);
      return at.top + y + each / 2;
    };
    for (const level of [0, data.coarse, data.levels - 1]) pen.fillText(String(level), at.left - 8, middle(level));
    const words = [
      ["map.wave", at.waveTop + at.waveHeight / 2],
      ["map.coarse", (middle(0) + middle(data.coarse - 1)) / 2],
      ["map.fine", (middle(data.coarse) + middle(data.levels - 1)) / 2],
    ];
    pen.textAlign = "center";
    for (const [key, y] of words) {
      pen.save();
      pen.translate(11, y);
      pen.rotate(-Math.PI / 2);
      pen.fillText(studio.say(key), 0, 0);
      pen.restore();
    }
    pen.textBaseline = "alphabetic";
    for (const { at: time, step } of ticks(data.seconds, at.room)) {
      const x = at.left + (time / data.seconds) * at.room;
      pen.textAlign = x > at.left + at.room - 16 ? "right" : time === 0 ? "left" : "center";
      pen.fillText(clock(time, step), Math.min(x, at.left + at.room), at.height - 6);
    }
  }

  // state: {data, kept (a byte a cell), paint, wave, ground, region}.
  studio.drawMap = (canvas, state) => {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const at = studio.mapGeometry(width, height);
    drawWave(pen, state, at);
    drawCells(pen, state, at, ratio);
    const bars = new Set(state.data.downbeats);
    // Where a whole song lies on the screen, lines at every beat would be all that is seen.
    const apart = (times) => (times.length > 1 ? ((times[times.length - 1] - times[0]) / (times.length - 1) / state.data.seconds) * at.room : at.room);
    const [beatsFit, barsFit] = [apart(state.data.beats) >= 6, apart(state.data.downbeats) >= 8];
    for (const time of state.data.beats) {
      if (!(bars.has(time) ? barsFit : beatsFit)) continue;
      pen.fillStyle = bars.has(time) ? COLOURS.bar : COLOURS.beat;
      const x = Math.round(at.left + (time / state.data.seconds) * at.room);
      pen.fillRect(x, at.waveTop, 1, at.bottom - at.waveTop);
    }
    drawLabels(pen, state, at);
    return at;
  };
})();
