"use strict";
// The page without it is whole: it adds tabs, the moving threshold, search, sorting, large photos.
// Texts are only ever set as text.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
  const short = (value) => String(Number(value.toPrecision(4)));
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const VERDICTS = [["passed", "false alarm"], ["missed", "found"]];
  document.documentElement.classList.add("scripted");

  function tabs(panels) {
    const list = document.getElementById("tabs");
    if (!list) return;
    const links = all("a", list);
    list.setAttribute("role", "tablist");
    panels[0].before(list);
    const select = (number, focus) => {
      links.forEach((link, i) => {
        link.setAttribute("aria-selected", String(i === number));
        link.tabIndex = i === number ? 0 : -1;
        panels[i].hidden = i !== number;
      });
      if (focus) links[number].focus();
    };
    // The address says which tab is open: a link to another one is then always a change of it.
    const choose = (number, focus) => {
      history.replaceState(null, "", links[number].hash);
      select(number, focus);
    };
    links.forEach((link, i) => {
      link.id = `tab-${i}`;
      link.setAttribute("role", "tab");
      link.setAttribute("aria-controls", panels[i].id);
      panels[i].setAttribute("role", "tabpanel");
      panels[i].setAttribute("aria-labelledby", link.id);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        choose(i, false);
      });
      link.addEventListener("keydown", (event) => {
        const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: links.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose((to + links.length) % links.length, true);
      });
    });
    const follow = () => {
      const number = panels.findIndex((panel) => `#${panel.id}` === location.hash);
      if (number >= 0) select(number, false);
      return number >= 0;
    };
    if (!follow()) select(0, false);
    addEventListener("hashchange", () => {
      if (follow()) panels.find((panel) => !panel.hidden).scrollIntoView();
    });
  }

  // How many of the ascending values are <= value.
  function upTo(values, value) {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function where(limit, own) {
    if (limit === -Infinity) return "below all";
    if (!own) return short(limit);
    const apart = `${limit < 0 ? "−" : "+"} ${short(Math.abs(limit))}`;
    return `the line of its subclass${limit ? ` ${apart}` : ""}`;
  }

  function threshold(panel, data, changed) {
    const { scores, labels, kinds, line, lines, calibration } = data;
    // Where photos have lines of their own, what is compared is how far they lie above these.
    const own = lines.length > 0;
    const compared = own ? scores.map((score, i) => score - lines[i]) : scores;
    // A step for every way to part the photos: all anomalous, then one score after the other.
    const steps = [-Infinity, ...[...new Set([...compared, line])].sort((a, b) => a - b)];
    const start = steps.indexOf(line);
    const slider = panel.querySelector(".line input");
    const tell = Object.fromEntries(all("[data-told]", panel).map((e) => [e.dataset.told, e]));
    const perKind = all(".kinds tbody tr", panel).map((row) => row.cells);
    const shown = all("[data-photo]", panel).filter((e) => e.dataset.verdict);
    const texts = shown.map((e) => e.querySelector(".verdict"));
    const plots = all("svg[data-plot]", panel);
    slider.max = steps.length - 1;

    function move() {
      const limit = steps[slider.value];
      const counts = [[0, 0], [0, 0]]; // by label, and by whether it is called anomalous
      const flagged = new Array(perKind.length).fill(0);
      compared.forEach((value, i) => {
        const above = Number(value > limit);
        counts[labels[i]][above] += 1;
        if (above) flagged[kinds[i]] += 1;
      });
      const [[passed, alarms], [missed, found]] = counts;
      const said = where(limit, own);
      const alarmed = plural(alarms, "false alarm");
      const sum = found + missed ? `${alarmed} · ${missed} missed` : alarmed;
      const values = {
        line: said, found, missed, alarms, passed,
        recall: percent(found, found + missed),
        rate: percent(alarms, alarms + passed),
        precision: percent(found, found + missed ? found + alarms : 0),
        f1: percent(2 * found, found + missed ? 2 * found + missed + alarms : 0),
      };
      for (const [name, value] of Object.entries(values)) tell[name].textContent = value;
      panel.querySelector(".at").textContent = said;
      panel.querySelector(".sum").textContent = sum;
      slider.setAttribute("aria-valuetext", `${said}: ${sum}`);
      panel.querySelector(".reset").disabled = Number(slider.value) === start;
      perKind.forEach((cells, kind) => {
        cells[2].textContent = flagged[kind];
        cells[3].textContent = percent(flagged[kind], Number(cells[1].textContent));
      });
      shown.forEach((element, n) => {
        const i = Number(element.dataset.photo);
        if (!(i in scores)) return;
        const verdict = VERDICTS[labels[i]][Number(compared[i] > limit)];
        if (element.dataset.verdict === verdict) return;
        element.dataset.verdict = verdict;
        texts[n].textContent = verdict;
      });
      if (tell.rank && calibration.length) {
        const n = calibration.length;
        const k = upTo(calibration, limit);
        tell.rank.textContent = own
          ? `${n - k} of ${n} calibration photos score above ${said}. The promise is for the lines ` +
            "where the calibration has drawn them, not for others."
          : `${n - k} of ${n} calibration photos score above this line. Chosen beforehand, by the ` +
            `calibration alone, it promises at most ${percent(n + 1 - k, n + 1)} false alarms.`;
      }
      for (const plot of plots) mark(plot, limit, { passed, alarms, missed, found });
      changed();
    }

    slider.addEventListener("input", move);
    panel.querySelector(".reset").addEventListener("click", () => {
      slider.value = start;
      move();
      slider.focus();
    });
    slider.value = start;
    move();
  }

  function mark(plot, limit, { passed, alarms, missed, found }) {
    const [left, right, bottom, top] = plot.dataset.box.split(",").map(Number);
    const place = plot.querySelector(".mark");
    if (!place) return;
    const x = (share) => left + share * (right - left);
    const y = (share) => bottom + share * (top - bottom);
    const recall = found / (found + missed || 1);
    if (plot.dataset.plot === "score") {
      const [low, high] = plot.dataset.scale.split(",").map(Number);
      const share = high > low ? Math.min(1, Math.max(0, (limit - low) / (high - low))) : 0;
      place.setAttribute("x1", x(share));
      place.setAttribute("x2", x(share));
    } else if (plot.dataset.plot === "roc") {
      place.setAttribute("cx", x(alarms / (alarms + passed || 1)));
      place.setAttribute("cy", y(recall));
    } else {
      place.setAttribute("cx", x(recall));
      place.setAttribute("cy", y(found + alarms ? found / (found + alarms) : 1));
    }
  }

  // Search, chips and sorting of the table of all photos; returns what to do when verdicts change.
  function table(panel, data) {
    const photos = panel.querySelector(".photos");
    if (!photos) return () => {};
    const body = photos.tBodies[0];
    const rows = [...body.rows];
    const search = panel.querySelector(".tools input");
    const chips = all(".chips button", panel);
    const name = (row) => row.cells[1].textContent;
    const kind = (row) => row.cells[row.cells.length - 1].textContent;
    const texts = rows.map((row) => `${name(row)}\n${kind(row)}`.toLowerCase());
    const told = panel.querySelector(".shown");
    let only = "";

    function filter() {
      const wanted = search.value.trim().toLowerCase();
      let count = 0;
      rows.forEach((row, n) => {
        const fits = (!only || row.dataset.verdict === only) && texts[n].includes(wanted);
        if (row.hidden === fits) row.hidden = !fits;
        count += Number(fits);
      });
      told.textContent = `${count} of ${plural(rows.length, "photo")}`;
    }

    const orders = {
      name,
      kind,
      score: (row) => data.scores[row.dataset.photo],
      verdict: (row) => row.dataset.verdict,
    };
    const heads = all("th[data-by]", photos);
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const by = orders[head.dataset.by];
        const before = head.getAttribute("aria-sort");
        // Scores begin with the highest, texts with the first.
        const falling = before ? before === "ascending" : head.dataset.by === "score";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const keyed = [...body.rows].map((row) => [by(row), row]);
        keyed.sort(([a], [b]) => (falling ? -1 : 1) * (a < b ? -1 : Number(a > b)));
        body.append(...keyed.map(([, row]) => row));
      });
    }
    search.addEventListener("input", filter);
    for (const chip of chips) {
      chip.addEventListener("click", () => {
        only = chip.dataset.show;
        chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
        filter();
      });
    }
    return filter;
  }

  function large(panel) {
    const dialog = document.getElementById("large");
    const cards = new Map(all(".card", panel).map((card) => [card.dataset.photo, card]));
    const open = (card) => {
      const shown = all("img", dialog);
      all("img", card).forEach((image, i) => {
        shown[i].src = image.src;
        shown[i].alt = image.alt;
      });
      dialog.querySelector("h2").textContent = card.querySelector(".name").textContent;
      const caption = card.querySelector("figcaption").cloneNode(true);
      caption.querySelector(".name").remove();
      const note = dialog.querySelector(".note");
      note.replaceChildren(...caption.childNodes);
      note.dataset.verdict = card.dataset.verdict;
      dialog.showModal();
    };
    const opens = (element, card, name) => {
      element.tabIndex = 0;
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", `Enlarge ${name}`);
      element.classList.add("opens");
      element.addEventListener("click", () => open(card));
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(card);
      });
    };
    for (const card of cards.values()) {
      opens(card.querySelector(".pair"), card, card.querySelector(".name").textContent);
    }
    for (const image of all(".photos img.large", panel)) {
      const row = image.closest("tr");
      const card = cards.get(row.dataset.photo);
      if (card) opens(image, card, row.cells[1].textContent);
    }
  }

  const panels = all("section.category");
  for (const panel of panels) {
    const data = panel.querySelector('script[type="application/json"]');
    if (data) {
      const values = JSON.parse(data.textContent);
      threshold(panel, values, table(panel, values));
    }
    large(panel);
  }
  tabs(panels);
  const dialog = document.getElementById("large");
  dialog.querySelector(".close button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
})();
