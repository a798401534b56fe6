// The takes as cards: play as a loop, download, use as source. Built as elements, never as markup: names come from visitors.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  }

  function card(take, vamp, trigger) {
    const track = { sound: take.sound, start: 0, end: 0 };
    const root = make("article", "vs-take");
    const play = make("button", "vs-play", "Play");
    play.type = "button";
    const title = make("b", "", `Take ${take.number}`);
    const seconds = make("span", "vs-aside", `${take.seconds.toFixed(1)} s`);
    const stage = make("div", "vs-stage");
    const canvas = make("canvas");
    const head = make("div", "vs-head");
    head.hidden = true;
    stage.append(canvas, head);
    const download = make("a", "vs-link", "Download");
    download.href = studio.player.address(take.sound);
    download.download = take.file;
    download.setAttribute("aria-label", `Download take ${take.number} of ${vamp.source} as WAV`);
    const reuse = make("button", "vs-link", "Use as source");
    reuse.type = "button";
    reuse.setAttribute("aria-label", `Use take ${take.number} of ${vamp.source} as source`);
    const top = make("header");
    top.append(play, title, seconds);
    const bottom = make("footer");
    bottom.append(download, reuse);
    root.append(top, stage, bottom);

    const wave = studio.bytes(take.wave, Int8Array);
    const draw = () => {
      if (!canvas.clientWidth) return;
      const { pen, width, height } = studio.prepare(canvas);
      const style = getComputedStyle(root);
      const colour = style.getPropertyValue(studio.player.isWanted(track) ? "--vs-accent-line" : "--vs-wave").trim();
      studio.drawWave(pen, wave, 0, 2, width, height - 4, () => colour);
    };
    const update = () => {
      const on = studio.player.isWanted(track);
      play.textContent = on ? "Stop" : "Play";
      play.setAttribute("aria-label", `${on ? "Stop" : "Play"} take ${take.number} of ${vamp.source}`);
      play.classList.toggle("vs-on", on);
      root.classList.toggle("vs-on", on);
      draw();
    };
    const run = (share) => studio.player.start(track, share).catch((error) => (seconds.textContent = error.message));
    play.addEventListener("click", () => (studio.player.isWanted(track) ? studio.player.stop() : run(null)));
    stage.addEventListener("click", (event) => run(event.offsetX / stage.clientWidth));
    reuse.addEventListener("click", () => {
      trigger("select", { sound: take.sound });
      document.getElementById("picture").scrollIntoView({ behavior: "smooth", block: "center" });
    });
    studio.player.onChange(root, update);
    studio.follow(head, () => track, (share) => `${share * 100}%`);
    new ResizeObserver(draw).observe(canvas);
    update();
    return root;
  }

  studio.takes = (element, props, watch, trigger) => {
    const list = element.querySelector(".vs-takes");
    const made = new Map();

    function show() {
      const vamps = props.value || [];
      const fresh = vamps.map((vamp) => {
        if (!made.has(vamp.folder)) {
          const section = make("section", "vs-vamp");
          const head = make("header");
          head.append(make("h2", "", `${vamp.title} of ${vamp.source}`), make("p", "vs-aside", vamp.sentence));
          const grid = make("div", "vs-cards");
          grid.append(...vamp.takes.map((take) => card(take, vamp, trigger)));
          section.append(head, grid);
          made.set(vamp.folder, section);
        }
        return made.get(vamp.folder);
      });
      for (const folder of [...made.keys()]) if (!vamps.some((vamp) => vamp.folder === folder)) made.delete(folder);
      list.replaceChildren(...fresh);
    }

    watch("value", show);
    show();
  };
})();
