// The token map: shows what stays over the source's spectrogram, is painted on, and plays the source or what is kept of it.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const BRUSHES = ["cell", "step", "level", "bar"];

  // ---- values that are held for the server: region, paint, the ground, what was heard
  const holders = new Map();
  const listeners = new Map();
  studio.held = (name, props, watch, trigger, event) => {
    holders.set(name, { props, ask: (data = {}) => event && trigger(event, data) });
    const tell = () => listeners.has(name) && listeners.get(name)(props.value || null);
    watch("value", tell);
    tell();
  };
  const heldValue = (name) => (holders.has(name) && holders.get(name).props.value) || null;
  const hold = (name, value) => holders.has(name) && (holders.get(name).props.value = value);
  const onHeld = (name, listener) => {
    listeners.set(name, listener);
    if (heldValue(name)) listener(heldValue(name));
  };

  const shareWords = (share) => (share === 0 || share === 100 || (share >= 1 && share <= 99) ? share.toFixed(0) : share.toFixed(1));

  class TokenMap {
    constructor(element, props, watch) {
      const find = (name) => element.querySelector(name);
      this.props = props;
      this.figure = find(".vs-picture");
      this.figure.tokenMap = this;
      [this.canvas, this.cells, this.cursorBox, this.sentence, this.note, this.words, this.play, this.hear, this.head] = [
        "canvas", ".vs-cells", ".vs-cursor", ".vs-sentence", ".vs-map-note", ".vs-cursor-words", ".vs-play", ".vs-hear", ".vs-head",
      ].map(find);
      this.undoButton = find(".vs-undo");
      this.clearButton = find(".vs-clear");
      this.tool = "look";
      this.brush = "cell";
      this.cursor = { level: 0, step: 0, toLevel: 0, toStep: 0 };
      this.data = this.ground = this.asked = this.keptTrack = null;
      this.hearing = this.stale = false;
      studio.fill(element);
      this.region = studio.regionStrip(find(".vs-strip"), find(".vs-clear-region"), this, (value) => hold("region", value));
      this.listen();
      watch("value", () => this.show());
      this.show();
    }

    listen() {
      for (const kind of ["tool", "brush"]) {
        for (const button of this.figure.querySelectorAll(`[data-${kind}]`)) {
          button.addEventListener("click", () => this.choose(kind, button.dataset[kind]));
        }
        this.choose(kind, this[kind]);
      }
      this.undoButton.addEventListener("click", () => this.undo());
      this.clearButton.addEventListener("click", () => this.stroke(() => this.paint.cells.fill(0)));
      this.play.addEventListener("click", () => (this.isOn(this.data.track) ? studio.player.stop() : this.start(this.data.track)));
      this.hear.addEventListener("click", () => this.listenToKept());
      for (const name of ["down", "move", "up", "cancel"]) this.cells.addEventListener(`pointer${name}`, (event) => this[name](event));
      this.cells.addEventListener("click", (event) => this.tool === "look" && this.playFrom(this.timeAt(event)));
      this.cells.addEventListener("keydown", (event) => this.key(event));
      for (const name of ["focus", "blur"]) this.cells.addEventListener(name, () => this.showCursor());
      onHeld("region", (value) => this.region.take(value));
      onHeld("paint", (value) => this.data && (this.paint.take(value), this.refresh()));
      onHeld("ground", (value) => ((this.ground = value ? studio.prepareGround(value) : null), this.draw()));
      onHeld("heard", (value) => this.heard(value));
      studio.player.onChange(this.figure, () => this.buttons());
      const track = () => (this.keptTrack && studio.player.isPlaying(this.keptTrack) ? this.keptTrack : this.data && this.data.track);
      studio.follow(this.head, track, (share) => this.headAt(track(), share));
      new ResizeObserver(() => this.draw()).observe(this.canvas);
    }

    // ---- what the server says
    show() {
      const value = this.props.value || {};
      if (value.turn < this.turn) return; // an answer that was overtaken by a later one
      this.turn = value.turn ?? this.turn;
      this.figure.classList.toggle("vs-problem", Boolean(value.problem));
      const before = this.data;
      // A problem leaves the map as it was, but never that of another clip.
      const same = before && (!before.track || !value.track || before.track.sound === value.track.sound);
      if (value.problem && (same || !value.kept)) return void (this.sentence.textContent = value.problem);
      if (!value.kept) return;
      const moved = before && before.track && value.track && !sameTrack(before.track, value.track);
      if (moved && studio.player.isWanted(before.track)) studio.player.stop();
      this.data = value;
      this.base = studio.bitsOf(Uint8Array.from(atob(value.kept), (c) => c.charCodeAt(0)), value.levels * value.steps);
      this.wave = new Int8Array(Uint8Array.from(atob(value.wave), (c) => c.charCodeAt(0)).buffer);
      if (!this.paint || this.paint.levels !== value.levels || this.paint.steps !== value.steps) {
        this.paint = new studio.Paint(value.levels, value.steps);
        this.paint.take(heldValue("paint"));
        Object.assign(this.cursor, { level: 0, step: value.open[0], toLevel: 0, toStep: value.open[0] });
      }
      for (const name of value.lost || []) hold(name, null);
      if ((value.lost || []).includes("region")) this.region.take(null);
      if (value.dropped) {
        this.note.textContent = this.dropped = value.dropped;
        this.droppedAt = performance.now();
      } else if (this.dropped && performance.now() - this.droppedAt > 3000) {
        // Later than the redrawing that it brings about itself: by now it is about what was.
        if (this.note.textContent === this.dropped) this.note.textContent = "";
        this.dropped = "";
      }
      this.forgetKept();
      this.askForGround();
      this.sentence.textContent = (value.problem || value.sentence) + (value.waiting ? ` ${studio.say("map.beats.finding")}` : "");
      const words = { name: value.name || studio.say("map.nobody"), seconds: value.seconds.toFixed(1), sentence: value.sentence };
      this.canvas.setAttribute("aria-label", studio.say("map.canvas", words));
      studio.showPreset(value.preset);
      studio.showTempo(value.tempo, value.track);
      this.mix();
      this.draw();
      this.region.place();
      this.buttons();
      this.figure.dataset.drawn = String(Number(this.figure.dataset.drawn || 0) + 1);
    }

    askForGround() {
      const sound = this.data.track && this.data.track.sound;
      if (!sound || (this.ground && this.ground.sound === sound) || this.asked === sound || !holders.has("ground")) return;
      this.asked = sound;
      holders.get("ground").ask();
    }

    // ---- what is drawn
    mix() {
      this.kept = studio.finalMask(this.data, this.base, this.paint);
    }

    draw() {
      if (!this.data || !this.canvas.clientWidth) return;
      this.at = studio.drawMap(this.canvas, { ...this, region: this.region.value });
      const { left, room, top, bottom } = this.at;
      Object.assign(this.cells.style, { left: `${left}px`, width: `${room}px`, top: `${top}px`, height: `${bottom - top}px` });
      this.showCursor();
    }

    // After paint: drawn at once, and the sentence counted here until the server's comes.
    refresh() {
      this.mix();
      this.draw();
      const share = this.kept.reduce((sum, cell) => sum + cell, 0) / this.kept.length;
      const whole = this.data.kbps;
      const words = { share: shareWords(100 * share), kept: (share * whole).toFixed(1), whole: whole.toFixed(1) };
      this.sentence.textContent = studio.say("map.keeps", words);
      this.forgetKept();
      this.buttons();
    }

    buttons() {
      const track = this.data && this.data.track;
      const on = Boolean(track && this.isOn(track));
      this.play.disabled = this.hear.disabled = !track;
      this.play.textContent = studio.say(on ? "map.play.stop" : "map.play");
      this.play.setAttribute("aria-label", studio.say(on ? "map.play.stop" : "map.play.label"));
      this.play.classList.toggle("vs-on", on);
      const kept = Boolean(this.keptTrack && this.isOn(this.keptTrack));
      this.hear.textContent = studio.say(this.hearing ? "map.hear.busy" : kept ? "map.hear.stop" : "map.hear");
      this.hear.classList.toggle("vs-on", kept);
      this.undoButton.disabled = !(this.paint && this.paint.undone.length);
      this.clearButton.disabled = !(this.paint && this.paint.any);
    }

    // ---- sound
    isOn(track) {
      return studio.player.isWanted(track);
    }

    start(track, share = null) {
      this.note.textContent = "";
      studio.player.start(track, share).catch((error) => (this.note.textContent = error.message));
    }

    playFrom(time) {
      const { inner, track } = this.data || {};
      const share = track ? (time - inner[0]) / (inner[1] - inner[0]) : -1;
      if (share >= 0 && share < 1) this.start(track, share);
    }

    headAt(track, share) {
      const [from, to] = track === this.keptTrack ? [0, this.data.seconds] : this.data.inner;
      return `${this.at.left + ((from + share * (to - from)) / this.data.seconds) * this.at.room}px`;
    }

    listenToKept() {
      if (this.keptTrack && this.isOn(this.keptTrack)) return void studio.player.stop();
      if (this.keptTrack) return void this.start(this.keptTrack);
      // A second press is a change of mind.
      this.hearing = !this.hearing;
      if (!this.hearing) return void this.buttons();
      this.note.textContent = "";
      this.askToHear();
      this.buttons();
    }

    askToHear() {
      this.stale = false;
      this.asking = (this.asking || 0) + 1;
      holders.get("heard").ask({ number: this.asking });
    }

    heard(value) {
      if (!value || !this.hearing || value.number !== this.asking) return;
      if (this.stale) return void this.askToHear();
      this.hearing = false;
      if (value.problem) this.note.textContent = value.problem;
      else this.start((this.keptTrack = { sound: value.sound, start: value.start, end: value.end }));
      this.buttons();
    }

    // It was of another mask.
    forgetKept() {
      if (this.keptTrack && this.isOn(this.keptTrack)) studio.player.stop();
      this.keptTrack = null;
      this.stale = true;
    }

    // ---- paint
    choose(kind, name) {
      this[kind] = name;
      for (const button of this.figure.querySelectorAll(`[data-${kind}]`)) {
        button.setAttribute("aria-pressed", String(button.dataset[kind] === name));
      }
      // Only with a tool in hand may a finger not scroll the page here.
      this.figure.classList.toggle("vs-painting", this.tool !== "look");
    }

    timeAt(event) {
      const box = this.cells.getBoundingClientRect();
      return ((event.clientX - box.left) / box.width) * this.data.seconds;
    }

    cellAt(event) {
      const box = this.cells.getBoundingClientRect();
      const step = Math.min(this.data.steps - 1, Math.max(0, Math.floor(this.timeAt(event) / this.data.step)));
      return { level: studio.levelAt(this.data, event.clientY - box.top, box.height), step };
    }

    apply(rectangle, what) {
      this.paint.fill(...studio.underBrush(this.data, this.brush, rectangle), what);
    }

    // Between two places that a pointer reported it went over all steps between them.
    line(from, to) {
      const count = Math.max(1, Math.abs(to.step - from.step), Math.abs(to.level - from.level));
      for (let i = 0; i <= count; i++) {
        const level = Math.round(from.level + ((to.level - from.level) * i) / count);
        const step = Math.round(from.step + ((to.step - from.step) * i) / count);
        this.apply([level, level + 1, step, step + 1], studio.PAINT[this.tool]);
      }
    }

    stroke(change) {
      if (!this.data) return;
      this.paint.remember();
      change();
      this.commit();
    }

    commit() {
      this.note.textContent = "";
      this.refresh();
      hold("paint", this.paint.value());
    }

    undo() {
      if (this.paint && this.paint.undo()) this.commit();
    }

    down(event) {
      if (this.tool === "look" || !this.data || event.button > 0 || this.last) return;
      event.preventDefault();
      this.cells.focus({ preventScroll: true });
      this.cells.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId; // another finger does not end its stroke
      this.paint.remember();
      this.last = this.cellAt(event);
      this.line(this.last, this.last);
      Object.assign(this.cursor, this.last, { toLevel: this.last.level, toStep: this.last.step });
      this.refresh();
    }

    move(event) {
      if (!this.last || event.pointerId !== this.pointer) return;
      const found = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const part of found.length ? found : [event]) {
        const cell = this.cellAt(part);
        this.line(this.last, cell);
        this.last = cell;
      }
      this.refresh();
    }

    up(event) {
      if (!this.last || event.pointerId !== this.pointer) return;
      this.last = null;
      this.commit();
    }

    cancel(event) {
      if (!this.last || event.pointerId !== this.pointer) return;
      this.last = null;
      this.paint.undo();
      this.refresh();
    }

    // ---- keyboard
    key(event) {
      if (!this.data) return;
      const { steps, levels } = this.data;
      const moves = {
        ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -steps], End: [0, steps],
        PageUp: [0, studio.barAt(this.data, Math.max(0, this.cursor.toStep - 1))[0] - this.cursor.toStep],
        PageDown: [0, studio.barAt(this.data, this.cursor.toStep)[1] - this.cursor.toStep],
      };
      const paints = { k: "keep", m: "make", Delete: "erase", Backspace: "erase" };
      const name = studio.keyOf(event);
      const command = event.ctrlKey || event.metaKey;
      if (event.altKey || (command && name !== "z")) return;
      if (moves[name]) {
        const cursor = this.cursor;
        cursor.toLevel = Math.min(levels - 1, Math.max(0, cursor.toLevel + moves[name][0]));
        cursor.toStep = Math.min(steps - 1, Math.max(0, cursor.toStep + moves[name][1]));
        if (!event.shiftKey) Object.assign(cursor, { level: cursor.toLevel, step: cursor.toStep });
      } else if (paints[name]) this.stroke(() => this.apply(this.selection(), studio.PAINT[paints[name]]));
      else if (name === "z" && command) this.undo();
      else if (name === "b") this.choose("brush", BRUSHES[(BRUSHES.indexOf(this.brush) + 1) % BRUSHES.length]);
      else return;
      event.preventDefault();
      event.stopPropagation();
      this.showCursor();
      this.tellCursor();
    }

    // [low, high, start, stop) between the cursor and where it was extended from.
    selection() {
      const { level, step, toLevel, toStep } = this.cursor;
      return [Math.min(level, toLevel), Math.max(level, toLevel) + 1, Math.min(step, toStep), Math.max(step, toStep) + 1];
    }

    showCursor() {
      const shown = this.data && this.at && document.activeElement === this.cells;
      this.cursorBox.hidden = !shown;
      if (!shown) return;
      const { data } = this;
      const [low, high, start, stop] = studio.underBrush(data, this.brush, this.selection());
      const whole = this.at.bottom - this.at.top;
      const [top] = studio.rowOf(data, low, whole);
      const [last, each] = studio.rowOf(data, high - 1, whole);
      const x = (step) => (Math.min(data.seconds, step * data.step) / data.seconds) * this.at.room;
      const place = { left: x(start), top, width: Math.max(3, x(stop) - x(start)), height: last + each - top };
      for (const [name, value] of Object.entries(place)) this.cursorBox.style[name] = `${value}px`;
    }

    tellCursor() {
      const { toLevel, toStep } = this.cursor;
      const [low, high, first, last] = this.selection();
      const state = this.kept[toLevel * this.data.steps + toStep] ? "kept" : "made";
      const one = { level: toLevel, step: toStep + 1, steps: this.data.steps, seconds: (toStep * this.data.step).toFixed(2) };
      const many = { low, high: high - 1, first: first + 1, last, brush: studio.say(`map.brush.${this.brush}`) };
      const single = high - low === 1 && last - first === 1 && this.brush === "cell";
      this.words.textContent = single
        ? studio.say("map.cell", { ...one, state: studio.say(`map.legend.${state}`) })
        : studio.say("map.cells", many);
    }
  }

  const sameTrack = (a, b) => a.sound === b.sound && a.start === b.start && a.end === b.end;
  studio.picture = (element, props, watch) => new TokenMap(element, props, watch);
})();
