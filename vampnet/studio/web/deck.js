// The loop deck: the source and all takes of a vamp in sync, one click or key apart. With the other scripts that
// vampnet/studio/deck.py names and deck.css it works on any page:
//   VampStudio.deck.mount(element, {vamp, address(path) -> URL, readOnly})   on a page without Gradio
//   VampStudio.deck.connect(element, props, watch, trigger)                  on the studio's page
//   VampStudio.deck.addAction({name, label, title, run(vamp, take), source})  a button for the chosen take; `source`: for the
//     source too, which is take number 0. `label` is text or a function (vamp, take) -> text.
//   VampStudio.deck.addVampAction({name, label, title, run(vamp), source})   a button for the vamp; `source`: only with its
//   VampStudio.deck.current() -> {vamp, take} or null
//   VampStudio.deck.fire(action, details)    tells Python: a "select" event with {action, ...details}
//   VampStudio.deck.choose(vampId, number)   puts a vamp on the deck, and a take of it in front; refresh() draws the buttons
// What a vamp is: see vampnet/studio/players.py. Built as elements, never as markup: names come from visitors.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const actions = [];
  const vampActions = [];
  let deck = null; // the one on this page
  let when = "now"; // one is switched to, where there are beats

  const say = (key, values) => studio.say(`deck.${key}`, values);
  const make = (...given) => studio.make(...given); // parts.js may come later than this file
  const button = (...given) => studio.button(...given);
  const tracksOf = (vamp) => [...(vamp.source_track ? [vamp.source_track] : []), ...vamp.takes];
  const textOf = ({ label }, ...given) => (typeof label === "function" ? label(...given) : label);

  class Deck {
    constructor(element, { vamp = null, address = null, readOnly = false, trigger = null } = {}) {
      if (address) studio.player.setAddress(address);
      Object.assign(this, { vamps: [], turn: 0, readOnly, trigger });
      this.shown = null; // the vamp on the deck
      this.chosen = 0; // the index of the row in front
      this.rows = []; // {take, wave, ...elements}
      this.paused = null; // the tracks of somebody else that the space bar has paused
      this.moving = false;
      this.build();
      element.append(this.root);
      studio.player.onChange(this.root, () => this.update());
      const redraw = () => setTimeout(() => this.rows.forEach((row) => studio.drawTrack(row, this.shown)), 100);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
      this.show(vamp ? [vamp] : []);
    }

    // ---- layout ----------------------------------------------------------------------------------------------------------

    build() {
      this.root = make("section", "vs-deck", "", { "aria-label": say("name") });
      this.title = make("h2");
      this.story = make("p", "vs-aside");
      this.vampBar = make("div", "vs-actions");
      this.list = make("div", "vs-tracks", "", { role: "group", "aria-label": say("tracks") });
      this.takeBar = make("div", "vs-actions vs-take-actions");
      this.note = make("p", "vs-notice vs-deck-note", "", { role: "status" });
      this.shelf = make("div", "vs-shelf");
      const words = make("div");
      words.append(this.title, this.story);
      const head = make("header", "vs-deck-head");
      head.append(words, this.vampBar);
      this.root.append(head, this.buildTransport(), this.list, this.takeBar, this.note, this.buildHints(), this.shelf);
    }

    buildTransport() {
      const { player } = studio;
      const bar = make("div", "vs-transport");
      this.play = button("vs-play", say("play"), () => this.toggle());
      const restart = button("vs-flat", say("restart"), () => this.begin(0), { title: say("restart.hint") });
      this.clock = make("span", "vs-clock", "", { role: "timer", "aria-live": "off" });
      const named = { role: "radiogroup", "aria-label": say("switch"), title: say("switch.hint") };
      this.switches = make("div", "vs-switch", "", named);
      const loud = make("label", "vs-master");
      loud.append(make("span", "vs-aside", say("master")), studio.fader(say("master"), player.state().loudness, player.master));
      bar.append(this.play, restart, this.clock, this.switches, loud);
      return bar;
    }

    buildSwitches() {
      const steady = this.shown.beats.length > 0;
      this.switches.replaceChildren(make("span", "vs-aside", say("switch")));
      for (const value of ["now", "beat", "bar"]) {
        const label = make("label");
        const input = make("input", "", "", { type: "radio", name: "vs-switch", value });
        input.checked = value === (steady ? when : "now");
        input.disabled = value !== "now" && !steady;
        if (input.disabled) label.title = say("no_beats");
        input.addEventListener("change", () => (when = value));
        label.append(input, make("span", "", say(`switch.${value}`)));
        this.switches.append(label);
      }
    }

    buildHints() {
      const hints = make("p", "vs-hints");
      const keys = { 0: "source", "1–8": "takes", [say("space")]: "play", R: "restart", M: "mute", S: "solo", F: "favourite" };
      for (const [key, what] of Object.entries(keys)) {
        if (key === "F" && this.readOnly) continue;
        const hint = make("span");
        if (what === "source") this.sourceHint = hint;
        hint.append(make("kbd", "", key), ` ${say(`key.${what}`)}`);
        hints.append(hint);
      }
      return hints;
    }

    buildRow(take, index) {
      const row = studio.track(take, studio.nameOf(take), {
        hear: () => this.switchTo(index), touch: (share) => this.touch(index, share),
        draw: () => studio.drawTrack(row, this.shown), mute: () => this.mark(index, "mute", "muted"),
        solo: () => this.mark(index, "solo", "solo"),
        volume: (value) => this.set(index, "volume", value), favour: () => this.favour(index),
      });
      row.star.hidden = this.readOnly || !take.number;
      return row;
    }

    // ---- what plays ------------------------------------------------------------------------------------------------------

    state() {
      const found = studio.player.state();
      const mine = Boolean(this.shown) && found.owner === this.shown.id;
      const front = mine && found.playing ? (found.wanted ?? found.heard) : this.chosen;
      return { ...found, mine, front, on: mine && found.playing };
    }

    // Gives the player the tracks of the deck; by default it goes on with what is heard.
    lend(heard) {
      const { id, beats, downbeats } = this.shown;
      const tracks = this.rows.map(({ take: { sound, seconds, alias } }) => ({ sound, seconds, alias }));
      return studio.player.load(tracks, { owner: id, beats, downbeats, heard });
    }

    // What goes wrong is said on the deck; nothing else changes.
    async attempt(work) {
      this.note.textContent = "";
      try {
        await work();
      } catch (error) {
        this.note.textContent = error.message;
      }
      this.update();
    }

    switchTo(index) {
      if (!this.rows[index]) return;
      this.chosen = index;
      this.update();
      this.attempt(async () => {
        if (!this.state().mine) await this.lend(index);
        await studio.player.hear(index, this.shown.beats.length ? when : "now");
      });
    }

    toggle() {
      if (this.state().on) studio.player.pause();
      else this.begin();
    }

    // What stands in front, from where it was paused or from a share of it. Another one may have been heard last.
    begin(share = null) {
      const { mine, on, heard } = this.state();
      if (!mine) return this.switchTo(this.chosen);
      this.attempt(async () => {
        if (!on && heard !== this.chosen) await this.lend(this.chosen);
        await studio.player.play(share);
      });
    }

    // The space bar pauses what is heard, whosever it is, and lets it go on.
    space() {
      const { mine, playing, tracks } = this.state();
      if (mine || !(playing || this.paused === tracks)) return this.toggle();
      this.paused = tracks;
      if (playing) studio.player.pause();
      else this.attempt(() => studio.player.play());
    }

    // On the wave: what is heard already jumps there, another one is heard from where all of them are.
    touch(index, share) {
      const { on, front } = this.state();
      if (on && front === index) this.attempt(() => studio.player.play(share));
      else this.switchTo(index);
    }

    set(index, what, value) {
      return this.attempt(async () => {
        if (!this.state().mine) await this.lend(this.chosen);
        await studio.player[what](index, value);
      });
    }

    mark(index, what, property) {
      const { mine, tracks } = this.state();
      this.set(index, what, !(mine && tracks[index][property]));
    }

    favour(index) {
      const { take } = this.rows[index];
      if (this.readOnly || !take.number) return;
      take.favourite = !take.favourite;
      this.fire("favourite", { vamp: this.shown.id, take: take.number, on: take.favourite });
      this.update();
      this.drawShelf();
    }

    fire(action, details = {}) {
      this.trigger?.("select", { action, ...details });
    }

    // Whether the key was of use.
    press(key) {
      if (!this.shown || !this.root.isConnected) return false;
      const { front, mine, playing } = this.state();
      if (playing && !mine && /^[ms]$/.test(key)) return false; // they are about what is heard, and that has no row here
      const found = /^[0-8]$/.test(key) ? this.rows.findIndex(({ take }) => take.number === Number(key)) : -1;
      const does = found >= 0 ? () => this.switchTo(found) : {
        " ": () => this.space(), r: () => this.begin(0), f: () => this.favour(front),
        m: () => this.mark(front, "mute", "muted"), s: () => this.mark(front, "solo", "solo"),
      }[key];
      if (does) does();
      return Boolean(does);
    }

    // ---- what is shown ---------------------------------------------------------------------------------------------------

    // The session's vamps, the newest first; a new one goes on the deck. What is older than what is shown comes too late.
    show(vamps) {
      const turn = Math.max(0, ...vamps.map((one) => one.turn || 0));
      if (turn < this.turn) return;
      this.turn = turn;
      const known = new Set(this.vamps.map((one) => one.id));
      this.vamps = vamps;
      this.root.hidden = !vamps.length;
      if (!vamps.length) return;
      const kept = vamps.find((one) => this.shown && one.id === this.shown.id);
      this.present(kept && known.has(vamps[0].id) ? kept : vamps[0]);
    }

    // Puts a vamp on the deck, and one of its tracks in front. What plays goes on with it, in phase if it is as long; what comes
    // later of a vamp, takes or beats, is the player's only if the vamp still is.
    present(vamp, index = null) {
      const other = !this.shown || this.shown.id !== vamp.id;
      const takes = tracksOf(vamp);
      const sounds = (list) => list.map((take) => take.sound).join("\n");
      const fresh = other || this.shown.coming !== vamp.coming || sounds(takes) !== sounds(this.rows.map((row) => row.take));
      const bars = other || this.shown.beats.length !== vamp.beats.length;
      this.shown = vamp;
      if (index !== null) this.chosen = index;
      else if (other) this.chosen = Math.min(Math.max(this.chosen, vamp.source_track ? 1 : 0), takes.length - 1);
      if (fresh) {
        const old = this.rows;
        this.rows = takes.map((take, i) => (old[i]?.take.sound === take.sound ? old[i] : this.buildRow(take, i)));
        studio.arrange(this.list, this.rows.map((row) => row.root));
        this.title.textContent = studio.titleOf(vamp);
        this.story.textContent = vamp.coming ? say("coming", { count: vamp.coming }) : studio.storyOf(vamp);
        this.takeBar.dataset.for = "";
      }
      if (bars) this.buildSwitches();
      const { playing, owner } = studio.player.state();
      const lent = other ? playing || owner !== null : owner === vamp.id;
      if ((fresh || bars) && lent) this.attempt(() => this.lend(index ?? undefined));
      this.rows.forEach((row, i) => Object.assign(row, { take: takes[i], looks: null }));
      this.update();
      this.drawShelf();
    }

    choose(id, number = null, listen = false) {
      const vamp = this.vamps.find((one) => one.id === id);
      if (!vamp) return;
      const index = number === null ? -1 : tracksOf(vamp).findIndex((take) => take.number === number);
      this.present(vamp, index < 0 ? null : index);
      this.fire("choose", { vamp: id, take: number });
      if (listen && index >= 0) this.switchTo(index);
    }

    update() {
      if (!this.shown) return;
      const { mine, on, heard, wanted, tracks, front } = this.state();
      if (on) this.chosen = front;
      const soloed = mine && tracks.some((one) => one.solo);
      this.play.textContent = on ? say("pause") : say("play");
      this.rows.forEach((row, i) => {
        const one = (mine && tracks[i]) || { muted: false, solo: false, volume: 1 };
        const first = i === (on && wanted !== null ? heard : front);
        const sounds = !one.muted && (soloed ? one.solo : first);
        row.name.setAttribute("aria-pressed", String(first));
        row.mute.setAttribute("aria-pressed", String(one.muted));
        row.solo.setAttribute("aria-pressed", String(one.solo));
        row.star.setAttribute("aria-pressed", String(Boolean(row.take.favourite)));
        row.star.textContent = row.take.favourite ? "★" : "☆";
        if (document.activeElement !== row.volume) row.volume.value = Math.round(one.volume * 100);
        row.root.classList.toggle("vs-on", sounds);
        row.root.classList.toggle("vs-front", first);
        row.root.classList.toggle("vs-waits", on && i === wanted && i !== heard);
        if (row.looks !== sounds) studio.drawTrack(row, this.shown);
        row.looks = sounds;
      });
      const marked = `${this.shown.id}/${this.chosen}`;
      if (this.takeBar.dataset.for !== marked) this.drawActions();
      this.takeBar.dataset.for = marked;
      if (!this.moving) this.move();
    }

    // Position lines and clock, as long as it plays.
    move() {
      const { mine, running, heard, front } = this.state();
      this.rows.forEach((row, i) => (row.head.style.left = `${(mine ? studio.player.position(i) : 0) * 100}%`));
      const row = this.rows[mine && running ? heard : front];
      if (row) this.tell((mine ? studio.player.position(this.rows.indexOf(row)) : 0) * row.take.seconds, row.take.seconds);
      this.moving = mine && running && this.root.isConnected;
      if (this.moving) requestAnimationFrame(() => this.move());
    }

    tell(at, seconds) {
      const text = studio.placeIn(this.shown, at, seconds);
      if (this.clock.textContent !== text) this.clock.textContent = text;
    }

    // ---- buttons ---------------------------------------------------------------------------------------------------------

    drawActions() {
      const { shown, readOnly } = this;
      this.sourceHint.hidden = Boolean(shown) && !shown.source_track;
      const added = (action, ...given) => {
        const run = () => this.attempt(() => action.run(...given));
        return button("vs-flat", textOf(action, ...given), run, { "data-action": action.name, title: action.title || "" });
      };
      const all = button("vs-flat", say("all"), () => this.downloadAll(all), { title: say("all.hint") });
      const whole = vampActions.filter((one) => !shown.coming && (!one.source || shown.source_track)); // for all of its takes
      const bar = [...(shown.coming ? [] : [all]), ...whole.map((one) => added(one, shown))];
      studio.redraw(this.vampBar, () => this.vampBar.replaceChildren(...bar));
      const { take } = this.rows[this.chosen];
      const name = studio.nameOf(take);
      const marks = { "aria-label": say("download.label", { name }), download: take.file, href: studio.player.address(take.sound) };
      const link = make("a", "vs-flat", say("download"), { ...marks, "data-action": "download" });
      const own = (readOnly ? [] : ["use", "again"]).map((what) => {
        const run = () => this.reuse(what, take);
        return button("vs-flat", say(what), run, { title: say(`${what}.hint`), "data-action": what });
      });
      const others = actions.filter((one) => take.number || one.source).map((one) => added(one, shown, take));
      studio.redraw(this.takeBar, () => this.takeBar.replaceChildren(make("b", "", name), link, ...own, ...others));
    }

    reuse(action, take) {
      this.fire(action, { vamp: this.shown.id, take: take.number });
      document.getElementById("picture")?.scrollIntoView({ behavior: "smooth", block: "center" });
    }

    async downloadAll(press) {
      const { shown } = this;
      press.disabled = true;
      press.textContent = say("packing");
      await this.attempt(async () => {
        const files = [...tracksOf(shown), ...(shown.files || [])];
        // By the names that its settings call them by: so the vamp can be read again from the folder.
        const named = files.map(({ sound }) => ({ name: decodeURIComponent(sound.split("/").pop()), url: studio.player.address(sound) }));
        const made = await studio.zip(named);
        studio.save(made, `${shown.source}-vamp-seed${shown.settings.seed}.zip`);
      });
      press.disabled = false;
      press.textContent = say("all");
    }

    drawShelf() {
      const choose = (id, number) => this.choose(id, number, number !== null);
      const lists = studio.shelf(this.vamps, this.shown, choose);
      studio.redraw(this.shelf, () => this.shelf.replaceChildren(...lists));
    }
  }

  const add = (where) => (action) => {
    where.push(action);
    where.sort((a, b) => (a.name < b.name ? -1 : 1)); // scripts come in any order
    studio.deck.refresh();
  };

  const mount = (element, options) => {
    if (!deck) studio.keys((key) => deck.press(key));
    deck = new Deck(element, options);
    return deck;
  };

  studio.deck = {
    mount,
    connect: (element, props, watch, trigger) => {
      const made = mount(element.querySelector(".vs-takes"), { trigger });
      const show = () => made.show(props.value || []);
      watch("value", show);
      show();
    },
    addAction: add(actions),
    addVampAction: add(vampActions),
    current: () => (deck && deck.shown ? { vamp: deck.shown, take: deck.rows[deck.chosen]?.take ?? null } : null),
    fire: (action, details) => deck?.fire(action, details),
    choose: (id, number) => deck?.choose(id, number),
    refresh: () => deck?.shown && deck.drawActions(), // the texts of the buttons
  };
})();
