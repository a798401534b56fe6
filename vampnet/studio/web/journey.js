// The strip of a journey: its rounds as cards, heard in sync on the player's clock, each new one when the loop next begins.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const say = (key, values) => studio.say(`journey.${key}`, values);

  function make(tag, options = {}, ...children) {
    const { text, data, ...rest } = options;
    const element = Object.assign(document.createElement(tag), rest);
    if (text) element.textContent = text;
    Object.assign(element.dataset, data || {});
    element.append(...children);
    return element;
  }

  const press = (text, run, options = {}) => {
    const button = make("button", { type: "button", className: "vs-flat", text, ...options });
    button.addEventListener("click", run);
    return button;
  };

  studio.journeys = (element, props, watch, trigger) => {
    const root = element.querySelector(".vs-journeys");
    const player = studio.player;
    const chosen = { limit: 0, along: true, repeats: 1, source: false }; // what stands in the fields
    let answered = 0; // the last round that the browser has asked for
    let made = 0; // rounds of this run
    let known = new Set(); // of the rounds that were seen
    let shown = ""; // what the cards are drawn from
    let cards = [];
    const sections = new Map(); // of the journeys that are shown, by their ids

    const named = (round) => (round ? say("round", { number: round.number }) : say("source"));
    const ownerOf = (journey) => `journey-${journey.id}`;
    const tracksOf = ({ source, seconds, rounds }) => [{ ...source, seconds }, ...rounds.map(({ sound }) => ({ sound, seconds }))];
    const report = (error) => (note.textContent = error.message);
    const note = make("p", { className: "vs-aside vs-wrong", role: "alert" });

    // ---- hearing -----------------------------------------------------------------------------------------------------------

    // Number 0 is the source. What is on goes on, in phase; the other one is heard when the loop next begins.
    async function hear(journey, number) {
      const index = number ? 1 + journey.rounds.findIndex((round) => round.number === number) : 0;
      const { owner, playing } = player.state();
      const options = { owner: ownerOf(journey), beats: [], downbeats: [0] };
      note.textContent = "";
      if (owner !== options.owner) await player.load(tracksOf(journey), { ...options, heard: playing ? undefined : index });
      else await player.load(tracksOf(journey), options);
      await (player.state().playing ? player.hear(index, "bar") : player.hear(index));
    }

    const hearing = (journey) => {
      const { owner, playing, heard, wanted } = player.state();
      return owner === ownerOf(journey) && playing ? { heard, wanted } : null;
    };

    function toggle(journey, number) {
      const index = number ? 1 + journey.rounds.findIndex((round) => round.number === number) : 0;
      const found = hearing(journey);
      if (found && (found.wanted ?? found.heard) === index) player.pause();
      else hear(journey, number).catch(report);
    }

    // ---- cards -------------------------------------------------------------------------------------------------------------

    function card(journey, round, running) {
      const number = round ? round.number : 0;
      const name = named(round);
      const place = { journey: journey.id, round: number };
      const tell = (what) => () => trigger("select", { do: what, ...place });
      const item = make("li", { className: "vs-round", data: { round: String(number) } });
      item.classList.toggle("vs-aside-way", Boolean(round) && !round.here);
      const current = journey.current === number;
      item.classList.toggle("vs-current", current);
      if (current) item.setAttribute("aria-current", "step");
      const head = make("header", {}, make("b", { text: name }));
      if (round) head.append(make("span", { text: round.parent ? say("from", { number: round.parent }) : say("from.source") }));
      const play = press("", () => toggle(journey, number), { className: "vs-play" });
      const canvas = make("canvas", { ariaHidden: "true" });
      const small = (key, run) => press(say(key), run, { title: say(`${key}.hint`), ariaLabel: `${say(key)}: ${name}` });
      const row = make("div", { className: "vs-round-row" }, play);
      if (!current) row.append(small("back", tell("back")));
      const more = make("div", { className: "vs-round-row" });
      if (!running) {
        row.append(small("branch", tell("branch")));
        if (round) more.append(small("use", () => trigger("apply", place)), small("remove", tell("remove")));
        more.querySelectorAll("button").forEach((button) => (button.className = "vs-link"));
      }
      if (current) more.append(make("em", { text: say("here") }));
      item.append(head, ...(round && round.wave ? [canvas] : []), row, more);
      const wave = round && round.wave ? studio.bytes(round.wave, Int8Array) : null;
      const update = () => {
        const found = hearing(journey);
        const index = number ? 1 + journey.rounds.indexOf(round) : 0;
        const on = Boolean(found) && found.heard === index;
        const wanted = Boolean(found) && (found.wanted ?? found.heard) === index;
        play.textContent = wanted ? say("pause") : say("play");
        play.setAttribute("aria-label", say(wanted ? "pause.label" : "play.label", { name }));
        play.classList.toggle("vs-on", wanted);
        item.classList.toggle("vs-heard", on);
        if (!wave || !canvas.clientWidth) return;
        const { pen, width, height } = studio.prepare(canvas);
        const colour = getComputedStyle(item).getPropertyValue(on ? "--vs-accent-line" : "--vs-wave").trim();
        studio.drawWave(pen, wave, 0, 1, width, height - 2, () => colour);
      };
      new ResizeObserver(update).observe(canvas);
      cards.push(update);
      update();
      return item;
    }

    function field(key, input) {
      input.title = say(`${key}.hint`);
      return make("label", { className: "vs-field", title: say(`${key}.hint`) }, make("span", { text: say(key) }), input);
    }

    // Those of the same name in other journeys say the same.
    function spread(input, property) {
      for (const other of root.querySelectorAll(`[name=${input.name}]`)) other[property] = input[property];
    }

    function select(values, name) {
      const list = make("select", { name: `journey-${name}` });
      for (const [value, text] of values) list.append(make("option", { value, text, selected: chosen[name] === value }));
      list.addEventListener("change", () => {
        chosen[name] = Number(list.value);
        spread(list, "value");
      });
      return list;
    }

    function check(key, name) {
      const box = make("input", { type: "checkbox", checked: chosen[name], name: `journey-${name}` });
      box.addEventListener("change", () => {
        chosen[name] = box.checked;
        spread(box, "checked");
      });
      return make("label", { className: "vs-check", title: key === "along" ? say("along.hint") : "" }, box, say(key));
    }

    // Made once: rounds come while somebody has a list open or is about to press.
    const limits = [[0, say("endless")], ...[1, 2, 4, 8, 16].map((n) => [n, String(n)])];
    const ahead = make("div", { className: "vs-rec-row" }, field("limit", select(limits, "limit")), check("along", "along"));

    function section(id) {
      let journey = null;
      const title = make("h2");
      const count = make("span", { className: "vs-aside" });
      const head = make("header", {}, title, count);
      const list = make("ol", { className: "vs-rounds", ariaLabel: say("rounds") });
      const box = make("section", { className: "vs-journey", data: { journey: id } });
      const times = props.repeats.map((n) => [n, n === 1 ? say("once") : say("times", { count: n })]);
      const ask = () => trigger("download", { journey: id, round: journey.current, repeats: chosen.repeats, source: chosen.source });
      const take = [press(say("export"), ask, { title: say("export.hint") }),
        field("repeats", select(times, "repeats")), check("with_source", "source")];
      const row = make("div", { className: "vs-rec-row" }, ...take);
      const link = make("a", { className: "vs-link vs-journey-file" });

      function drawRounds(running) {
        const round = document.activeElement?.closest(".vs-round")?.dataset.round;
        const made = [null, ...journey.rounds].map((one) => card(journey, one, running));
        const near = () => list.querySelector(`[data-round="${round}"] .vs-play`) ?? list.querySelector(".vs-current .vs-play");
        const scrolled = list.scrollLeft;
        studio.redraw(list, () => list.replaceChildren(...made), near);
        list.scrollLeft = scrolled;
      }

      function draw(given, first, running) {
        journey = given;
        title.textContent = box.ariaLabel = say("title", { name: journey.name });
        count.textContent = say("count", { count: journey.rounds.length, most: journey.most, seed: journey.seed });
        drawRounds(running);
        if (journey.file) {
          const { file, sound, seconds } = journey.file;
          link.textContent = say("download", { file, seconds: seconds.toFixed(1) });
          Object.assign(link, { download: file, href: player.address(sound) });
        }
        studio.arrange(row, journey.file ? [...take, link] : take);
        studio.arrange(box, [head, ...(first ? [ahead] : []), list, ...(journey.current ? [row] : [])]);
      }

      return { box, draw };
    }

    // ---- what Python says --------------------------------------------------------------------------------------------------

    function show() {
      const value = props.value;
      const journeys = (value && value.journeys) || [];
      const drawn = JSON.stringify([journeys, Boolean(value && value.running)]);
      if (drawn !== shown) {
        shown = drawn;
        cards = [];
        for (const id of sections.keys()) if (!journeys.some((one) => one.id === id)) sections.delete(id);
        for (const { id } of journeys) if (!sections.has(id)) sections.set(id, section(id));
        journeys.forEach((one, i) => sections.get(one.id).draw(one, i === 0, value.running));
        studio.arrange(root, [...journeys.map(({ id }) => sections.get(id).box), note]);
        cards.forEach((update) => update());
      }
      follow(journeys[0], value);
    }

    // A new round is heard; the next one is asked for, unless there have been enough.
    function follow(journey, value) {
      if (!journey) return;
      // A round that was taken away while it is heard would play on, with no button left to stop it.
      const { owner, playing } = player.state();
      const own = value.journeys.find((one) => ownerOf(one) === owner);
      if (playing && own && player.state().tracks.some(({ sound }) => known.has(sound) && !tracksOf(own).some((one) => one.sound === sound))) player.stop();
      const fresh = journey.rounds.filter(({ sound }) => !known.has(sound));
      known = new Set(value.journeys.flatMap(({ rounds }) => rounds.map(({ sound }) => sound)));
      const newest = fresh[fresh.length - 1];
      if (newest) {
        root.querySelector(`[data-round="${newest.number}"]`)?.scrollIntoView({ behavior: "smooth", block: "nearest", inline: "nearest" });
        if (chosen.along && hearing(journey)) hear(journey, newest.number).catch(report);
      }
      if (!value.running) made = 0;
      if (!value.running || value.ask === answered) return;
      if (answered !== value.ask && made === 0 && chosen.along && !hearing(journey)) hear(journey, journey.current).catch(report);
      answered = value.ask;
      if (chosen.limit && made >= chosen.limit) {
        made = 0;
        trigger("select", { do: "end", journey: journey.id, round: 0 });
        return;
      }
      made += 1;
      trigger("submit", { ask: value.ask });
    }

    player.onChange(root, () => cards.forEach((update) => update()));
    watch("value", show);
    show();
    const button = document.getElementById("vamp-on");
    if (button) button.title = say("on.hint");
  };
})();
