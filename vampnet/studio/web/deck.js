// The loop deck: the source and all takes of a vamp in sync, one click or key apart. With text.js, player.js and draw.js it
// works on any page:
//   VampStudio.deck.mount(element, {vamp, address(path) -> URL, readOnly})   on a page without Gradio
//   VampStudio.deck.connect(element, props, watch, trigger)                  on the studio's page
//   VampStudio.deck.addAction({name, label, title, run(vamp, take), source})  a button for the chosen take; `source`: for the
//     source too, which is take number 0. `label` is text or a function (vamp, take) -> text.
//   VampStudio.deck.addVampAction({name, label, title, run(vamp)})           a button for the vamp
//   VampStudio.deck.current() -> {vamp, take} or null
//   VampStudio.deck.fire(action, details)    tells Python: a "select" event of the component with {action, ...details}
//   VampStudio.deck.choose(vampId, number)   puts a vamp on the deck, and a take of it in front
// What a vamp is: see vampnet/studio/players.py. Built as elements, never as markup: names come from visitors.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const actions = [];
  const vampActions = [];
  let deck = null; // the one on this page
  let when = "now";

  const say = (key, values) => studio.say(`deck.${key}`, values);

  function make(tag, className, text, attributes = {}) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function button(className, text, run, attributes = {}) {
    const element = make("button", className, text, { type: "button", ...attributes });
    element.addEventListener("click", run);
    return element;
  }

  function slider(name, value, change) {
    const element = make("input", "vs-volume", "", { type: "range", min: 0, max: 100, step: 1, "aria-label": name, title: name });
    element.value = Math.round(value * 100);
    element.addEventListener("input", () => change(element.value / 100));
    return element;
  }

  const titleOf = (vamp) => say("title", { title: vamp.title, source: vamp.source });
  const nameOf = (take) => (take.number ? say("take", { number: take.number }) : say("source"));

  // In words, how a vamp was made.
  function storyOf({ settings }) {
    const share = 100 * settings.kept_share;
    const shown = share === 0 || share === 100 || (share >= 1 && share <= 99) ? share.toFixed(0) : share.toFixed(1);
    const { steps } = settings.sampling;
    return say("story", { share: shown, kbps: settings.kept_kbps.toFixed(1), steps, seed: settings.seed, model: settings.model });
  }

  function mount(element, { vamp = null, address = null, readOnly = false, trigger = null } = {}) {
    if (address) studio.player.setAddress(address);
    const { player } = studio;
    let vamps = vamp ? [vamp] : [];
    let shown = null; // the vamp on the deck
    let chosen = 0; // the index of the row in front
    let rows = []; // {take, ...elements}
    let moving = false;

    const root = make("section", "vs-deck", "", { "aria-label": say("name") });
    const title = make("h2");
    const story = make("p", "vs-aside");
    const vampBar = make("div", "vs-actions");
    const play = button("vs-play", "", () => (state().on ? player.pause() : attempt(() => hear(chosen, true))));
    const restart = button("vs-flat", say("restart"), again, { title: say("restart.hint") });
    const clock = make("span", "vs-clock", "", { role: "timer", "aria-live": "off" });
    const switches = make("div", "vs-switch", "", { role: "radiogroup", "aria-label": say("switch"), title: say("switch.hint") });
    const master = slider(say("master"), player.state().loudness, player.master);
    const list = make("div", "vs-tracks", "", { role: "group", "aria-label": say("tracks") });
    const takeBar = make("div", "vs-actions vs-take-actions");
    const note = make("p", "vs-notice vs-deck-note", "", { role: "status" });
    const hints = make("p", "vs-hints");
    const shelf = make("div", "vs-shelf");

    // ---- what plays ----------------------------------------------------------------------------------------------------------

    const state = () => {
      const found = player.state();
      const mine = Boolean(shown) && found.owner === shown.id;
      return { ...found, mine, on: mine && found.playing };
    };

    const track = ({ sound, seconds, alias }) => ({ sound, seconds, alias });
    const lend = (heard) =>
      player.load(rows.map(({ take }) => track(take)), { owner: shown.id, beats: shown.beats, downbeats: shown.downbeats, heard });

    // Errors are said on the deck; nothing else changes.
    async function attempt(work) {
      note.textContent = "";
      try {
        await work();
      } catch (error) {
        note.textContent = error.message;
      }
      update();
    }

    async function hear(index, resume = false) {
      if (!rows[index]) return;
      chosen = index;
      update();
      const { mine, on } = state();
      if (!mine) {
        player.stop();
        await lend(index);
      }
      await (resume && !on ? player.play() : player.hear(index, when));
    }

    function again() {
      if (shown) attempt(async () => (state().mine ? player.play(0) : hear(chosen)));
    }

    const switchTo = (index) => attempt(() => hear(index));

    // A click on the wave: the track that is heard already jumps there, another one is heard from where all of them are.
    function touch(index, share) {
      const { mine, on, heard, wanted } = state();
      if (mine && on && (wanted ?? heard) === index) attempt(() => player.play(share));
      else switchTo(index);
    }

    // ---- rows ----------------------------------------------------------------------------------------------------------------

    function makeRow(take, index) {
      const name = nameOf(take);
      const row = { take, wave: studio.bytes(take.wave, Int8Array) };
      row.root = make("article", `vs-track ${take.number ? "vs-take" : "vs-original"}`);
      row.name = button("vs-name", "", () => switchTo(index), { title: say("hear.hint", { key: take.number }) });
      row.name.append(make("kbd", "", String(take.number), { "aria-hidden": "true" }), make("b", "", name));
      row.name.setAttribute("aria-label", say("hear", { name }));
      row.stage = make("div", "vs-stage");
      row.canvas = make("canvas", "", "", { role: "img", "aria-label": say("wave", { name, seconds: take.seconds.toFixed(1) }) });
      row.head = make("div", "vs-head");
      row.stage.append(row.canvas, row.head);
      row.stage.addEventListener("click", (event) => touch(index, event.offsetX / row.stage.clientWidth));
      row.mute = button("vs-key", "M", () => toggle(index, "muted"), { title: say("mute.hint"), "aria-label": say("mute", { name }) });
      row.solo = button("vs-key", "S", () => toggle(index, "solo"), { title: say("solo.hint"), "aria-label": say("solo", { name }) });
      row.volume = slider(say("volume", { name }), 1, (value) => ready().then(() => player.volume(index, value)));
      row.star = button("vs-key vs-star", "", () => favour(index), { title: say("favourite.hint"), "aria-label": say("favourite", { name }) });
      row.root.append(row.name, row.stage, row.mute, row.solo, row.volume, row.star);
      row.star.hidden = readOnly || !take.number;
      new ResizeObserver(() => draw(row)).observe(row.canvas);
      return row;
    }

    const ready = async () => state().mine || lend(chosen);

    function toggle(index, what) {
      attempt(async () => {
        await ready();
        await (what === "solo" ? player.solo : player.mute)(index, !state().tracks[index][what]);
      });
    }

    function favour(index) {
      const { take } = rows[index];
      if (readOnly || !take.number) return;
      take.favourite = !take.favourite;
      fire("favourite", { vamp: shown.id, take: take.number, on: take.favourite });
      update();
      drawShelf();
    }

    function draw(row) {
      if (!row.canvas.clientWidth) return;
      const { pen, width, height } = studio.prepare(row.canvas);
      const style = getComputedStyle(row.root);
      const colour = (name) => style.getPropertyValue(name).trim();
      const bars = new Set(shown.downbeats);
      const { seconds } = row.take;
      const fine = shown.beats.length * 5 < width;
      for (const time of shown.beats) {
        if (time >= seconds || !(fine || bars.has(time))) continue;
        pen.fillStyle = colour(bars.has(time) ? "--vs-bar" : "--vs-beat");
        pen.fillRect(Math.round((time / seconds) * width), 0, bars.has(time) ? 1.5 : 1, height);
      }
      const wave = colour(row.root.classList.contains("vs-on") ? "--vs-accent-line" : "--vs-wave");
      studio.drawWave(pen, row.wave, 0, 2, width, height - 4, () => wave);
    }

    // ---- buttons -------------------------------------------------------------------------------------------------------------

    function drawActions() {
      const row = rows[chosen];
      vampBar.replaceChildren(button("vs-flat", say("all"), downloadAll, { title: say("all.hint") }));
      vampBar.append(...vampActions.map((action) => button("vs-flat", textOf(action, shown), () => attempt(() => action.run(shown)), marks(action))));
      takeBar.replaceChildren();
      if (!row) return;
      const { take } = row;
      const name = nameOf(take);
      const download = make("a", "vs-flat", say("download"), { "aria-label": say("download.label", { name }) });
      download.href = player.address(take.sound);
      download.download = take.file;
      takeBar.append(make("b", "", name), download);
      const place = { vamp: shown.id, take: take.number };
      const tell = (action) => () => {
        fire(action, place);
        document.getElementById("picture")?.scrollIntoView({ behavior: "smooth", block: "center" });
      };
      if (!readOnly) {
        takeBar.append(button("vs-flat", say("use"), tell("use"), { title: say("use.hint") }));
        takeBar.append(button("vs-flat", say("again"), () => fire("again", place), { title: say("again.hint") }));
      }
      for (const action of actions) {
        if (!take.number && !action.source) continue;
        takeBar.append(button("vs-flat", textOf(action, shown, take), () => attempt(() => action.run(shown, take)), marks(action)));
      }
    }

    const textOf = ({ label }, ...given) => (typeof label === "function" ? label(...given) : label);
    const marks = ({ name, title: hint }) => ({ "data-action": name, ...(hint ? { title: hint } : {}) });

    async function downloadAll() {
      const press = vampBar.firstChild;
      press.disabled = true;
      press.textContent = say("packing");
      await attempt(async () => {
        const files = [...rows.map(({ take }) => take), ...(shown.files || [])];
        const made = await studio.zip(files.map(({ file, sound }) => ({ name: file, url: player.address(sound) })));
        const link = make("a", "", "", { download: `${shown.source}-vamp-seed${shown.settings.seed}.zip` });
        link.href = URL.createObjectURL(made);
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      });
      press.disabled = false;
      press.textContent = say("all");
    }

    const fire = (action, details = {}) => trigger && trigger("select", { action, ...details });

    function drawShelf() {
      const stars = vamps.flatMap((one) => one.takes.filter((take) => take.favourite).map((take) => [one, take]));
      const lists = [];
      const section = (name, buttons) => {
        const box = make("div", "vs-shelf-list");
        box.append(make("h3", "", name), ...buttons);
        lists.push(box);
      };
      if (stars.length) {
        section(say("favourites"), stars.map(([one, take]) =>
          button("vs-chip", `★ ${nameOf(take)} · ${titleOf(one)}`, () => choose(one.id, take.number, true))
        ));
      }
      if (vamps.length > 1) {
        section(say("vamps"), vamps.map((one) => {
          const count = one.takes.length === 1 ? say("count.one") : say("count", { count: one.takes.length });
          const text = `${titleOf(one)} · ${count} · ${say("seed", { seed: one.settings.seed })}`;
          return button("vs-chip vs-vamp", text, () => choose(one.id), { title: storyOf(one), "aria-pressed": String(one === shown) });
        }));
      }
      shelf.replaceChildren(...lists);
    }

    // ---- what is shown -------------------------------------------------------------------------------------------------------

    function drawTransport() {
      switches.replaceChildren(make("span", "vs-aside", say("switch")));
      for (const [value, possible] of [["now", true], ["beat", shown.beats.length > 0], ["bar", shown.beats.length > 0]]) {
        const label = make("label", "");
        const input = make("input", "", "", { type: "radio", name: "vs-switch", value });
        input.checked = value === when;
        input.disabled = !possible;
        if (!possible) label.title = say("no_beats");
        input.addEventListener("change", () => (when = value));
        label.append(input, make("span", "", say(`switch.${value}`)));
        switches.append(label);
      }
      if (!shown.beats.length) when = "now";
    }

    function tick() {
      const { mine, running, heard } = state();
      rows.forEach((row, i) => (row.head.style.left = `${(mine ? player.position(i) : 0) * 100}%`));
      const front = rows[mine ? heard : chosen];
      if (front) {
        const at = (mine ? player.position(heard) : 0) * front.take.seconds;
        const beat = shown.beats.filter((time) => time <= at + 1e-3).length;
        const bar = shown.downbeats.filter((time) => time <= at + 1e-3).length;
        const within = bar ? shown.beats.filter((time) => time <= at + 1e-3 && time >= shown.downbeats[bar - 1] - 1e-3).length : beat;
        const time = say("clock", { at: at.toFixed(1), seconds: front.take.seconds.toFixed(1) });
        const tempo = shown.tempo ? ` · ${say("tempo", { tempo: Math.round(shown.tempo) })}` : "";
        clock.textContent = time + (shown.beats.length ? ` · ${say("bar", { bar, beat: within })}` : "") + tempo;
      }
      moving = mine && running;
      if (moving) requestAnimationFrame(tick);
    }

    function update() {
      if (!shown) return;
      const { mine, on, heard, wanted, tracks, running } = state();
      if (mine && running) chosen = wanted ?? heard;
      const soloed = mine && tracks.some((one) => one.solo);
      play.textContent = on ? say("pause") : say("play");
      play.classList.toggle("vs-on", on);
      rows.forEach((row, i) => {
        const one = mine ? tracks[i] : { muted: false, solo: false, volume: 1 };
        const front = i === (mine && running ? heard : chosen);
        const sounds = !one.muted && (soloed ? one.solo : front);
        row.name.setAttribute("aria-pressed", String(front));
        row.mute.setAttribute("aria-pressed", String(one.muted));
        row.solo.setAttribute("aria-pressed", String(one.solo));
        row.star.setAttribute("aria-pressed", String(Boolean(row.take.favourite)));
        row.star.textContent = row.take.favourite ? "★" : "☆";
        if (document.activeElement !== row.volume) row.volume.value = Math.round(one.volume * 100);
        const looks = [front, sounds, i === wanted, mine].join();
        if (row.looks === looks) return;
        row.looks = looks;
        row.root.classList.toggle("vs-on", sounds);
        row.root.classList.toggle("vs-front", front);
        row.root.classList.toggle("vs-waits", mine && i === wanted && i !== heard);
        draw(row);
      });
      const marked = `${shown.id}/${chosen}`;
      if (takeBar.dataset.for !== marked) {
        takeBar.dataset.for = marked;
        drawActions();
      }
      if (!moving) tick();
    }

    // Puts a vamp on the deck. What plays goes on with it, in phase if it is as long.
    function present(next, index = null) {
      const { owner, playing } = player.state();
      if (shown !== next || rows.some((row, i) => row.take.sound !== tracksOf(next)[i]?.sound) || rows.length !== tracksOf(next).length) {
        const other = !shown || shown.id !== next.id;
        shown = next;
        if (other) chosen = Math.min(Math.max(chosen, next.source_track ? 1 : 0), tracksOf(next).length - 1);
        const old = rows;
        rows = tracksOf(next).map((take, i) => old.find((row, j) => i === j && row.take.sound === take.sound) || makeRow(take, i));
        rows.forEach((row, i) => {
          row.take = tracksOf(next)[i];
          row.looks = null;
        });
        list.replaceChildren(...rows.map((row) => row.root));
        title.textContent = titleOf(next);
        story.textContent = storyOf(next);
        takeBar.dataset.for = "";
        drawTransport();
        if (index !== null) chosen = index;
        if (playing || owner !== null) attempt(() => lend(other && index === null ? undefined : (index ?? undefined)));
      } else if (index !== null) chosen = index;
      update();
      drawShelf();
    }

    const tracksOf = (one) => [...(one.source_track ? [one.source_track] : []), ...one.takes];

    function choose(id, number = null, listen = false) {
      const next = vamps.find((one) => one.id === id);
      if (!next) return;
      const index = number === null ? null : tracksOf(next).findIndex((take) => take.number === number);
      present(next, index);
      fire("choose", { vamp: id, take: number });
      if (listen && index >= 0) switchTo(index);
    }

    // The session's vamps, the newest first; a new one goes on the deck.
    function show(list) {
      const known = new Set(vamps.map((one) => one.id));
      vamps = list;
      root.hidden = !vamps.length;
      if (!vamps.length) return;
      const kept = shown && vamps.find((one) => one.id === shown.id);
      present(kept && known.has(vamps[0].id) ? kept : vamps[0]);
    }

    // ---- keys ----------------------------------------------------------------------------------------------------------------

    function press(key) {
      if (!shown) return false;
      const front = () => (state().mine ? (state().wanted ?? state().heard) : chosen);
      if (/^[0-8]$/.test(key)) {
        const index = rows.findIndex((row) => row.take.number === Number(key));
        if (index >= 0) switchTo(index);
        return index >= 0;
      }
      const does = {
        " ": () => play.click(), r: again, f: () => favour(front()),
        m: () => toggle(front(), "muted"), s: () => toggle(front(), "solo"),
      }[key.toLowerCase()];
      if (does) does();
      return Boolean(does);
    }

    const top = make("header", "vs-deck-head");
    const words = make("div");
    words.append(title, story);
    top.append(words, vampBar);
    const loud = make("label", "vs-master");
    loud.append(make("span", "vs-aside", say("master")), master);
    const bar = make("div", "vs-transport");
    bar.append(play, restart, clock, switches, loud);
    for (const [key, what] of [["0", "source"], ["1–8", "takes"], [say("space"), "play"], ["R", "restart"], ["M", "mute"], ["S", "solo"], ["F", "favourite"]]) {
      if (key === "F" && readOnly) continue;
      const hint = make("span");
      hint.append(make("kbd", "", key), ` ${say(`key.${what}`)}`);
      hints.append(hint);
    }
    root.append(top, bar, list, takeBar, note, hints, shelf);
    element.append(root);
    player.onChange(root, update);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(() => rows.forEach(draw), 100));

    deck = { root, show, choose, press, fire, current: () => (shown ? { vamp: shown, take: rows[chosen]?.take ?? null } : null),
      refresh: () => shown && drawActions() };
    show(vamps);
    return deck;
  }

  // Not while somebody types, and not where the key has a meaning of its own.
  function typing(event) {
    const { target, key } = event;
    if (!(target instanceof Element)) return false;
    if (target.closest("textarea, select, [contenteditable]:not([contenteditable=false]), [role=textbox], [role=combobox]")) return true;
    const input = target.closest("input");
    if (input && !["range", "checkbox", "radio", "button"].includes(input.type)) return true;
    const own = target.closest("button, a, summary, input[type=checkbox], input[type=radio], [role=tab], [role=button], audio, video");
    return key === " " && Boolean(own) && (own.matches(":focus-visible") || !deck.root.contains(own));
  }

  document.addEventListener("keydown", (event) => {
    if (!deck || !deck.root.isConnected || event.defaultPrevented || event.isComposing || event.repeat) return;
    if (event.ctrlKey || event.altKey || event.metaKey || typing(event)) return;
    if (deck.press(event.key)) event.preventDefault();
  });

  const add = (where) => (action) => {
    where.push(action);
    if (deck) deck.refresh();
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
    current: () => (deck ? deck.current() : null),
    fire: (action, details) => deck && deck.fire(action, details),
    choose: (id, number) => deck && deck.choose(id, number),
  };
})();
