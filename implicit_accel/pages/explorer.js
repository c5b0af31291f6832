// The explorer of results: controls, words and two charts made of a payload. Whatever comes from
// results is set as text, never as markup.
"use strict";
(() => {
  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
  const MOST_AT_FIRST = 8; // curves; of more, only the first value of each further axis is shown
  const MOST_SENTENCES = 8;
  const MOST_DIVERGED = 0.1; // as statistics.usable has it
  const MEDIAN = 1;
  // As statistics.BEST_BY_WORDS has them; tests/test_explorer.py compares both.
  const BEST_BY_WORDS = {
    stable: "fewest steps to the target among stable runs",
    target: "first to the target",
    final: "smallest final excess loss",
  };
  const SHORT_RULES = { stable: "stable", target: "first to the target", final: "final loss" };
  const REASON = "effective_learning_rate";
  const PLAY_SECONDS = 8;

  // --- numbers ---

  // The folded differences that explorer._pack wrote.
  async function unpack({ shape, data }) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = planes.length / 4;
    const row = shape[shape.length - 1];
    const values = new Int32Array(count);
    for (let i = 0, sum = 0; i < count; i++) {
      const folded =
        planes[i] + 256 * planes[count + i] + 65536 * planes[2 * count + i] +
        16777216 * planes[3 * count + i];
      if (i % row === 0) sum = 0;
      sum += folded % 2 ? -(folded + 1) / 2 : folded / 2;
      values[i] = sum;
    }
    return values;
  }

  const asFloats = (whole) => new Float32Array(whole.buffer);

  // Three digits, as tables have them.
  function three(value) {
    if (value === null || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return "∞";
    const size = Math.abs(value);
    const rounded = Number(value.toPrecision(3));
    if (size === 0 || (size >= 0.001 && size < 1e6)) {
      return rounded.toLocaleString("en-US", { maximumSignificantDigits: 3 });
    }
    return rounded.toExponential();
  }

  const count = (value) =>
    Number.isFinite(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 1 }) : "never";

  function between(low, high, form = three) {
    return Number.isNaN(low) || Number.isNaN(high) ? "" : ` [${form(low)}, ${form(high)}]`;
  }

  const nearest = (values, wanted) =>
    values.reduce((best, value, i) => (distance(value, wanted) < distance(values[best], wanted) ? i : best), 0);

  // Of numbers above 0, by their ratio.
  const distance = (a, b) => Math.abs(Math.log(a / b));

  // --- results ---

  // A payload, unpacked.
  class Results {
    static async of(payload) {
      const found = new Results();
      Object.assign(found, payload);
      found.diverged = await unpack(payload.diverged);
      found.final = asFloats(await unpack(payload.final));
      found.byRule = {};
      for (const [rule, part] of [[payload.best_by, payload], ...Object.entries(payload.others ?? {})]) {
        found.byRule[rule] = {
          best_by: rule, targets: part.targets, interval: part.interval, lost: await unpack(part.lost),
          passages: await unpack(part.targets.steps),
          bestAt: (await unpack(part.targets.best)).map((place) => place - 1),
          speedUps: asFloats(await unpack(part.targets.speed_up)),
        };
      }
      found.own = payload.best_by;
      found.use(found.own);
      found.quantities = [];
      for (const quantity of payload.quantities) {
        const read = { ...quantity };
        for (const name of ["spread", "alone", "predicted"]) {
          if (quantity[name]) {
            read[name] = await unpack(quantity[name]);
            read[`${name}Shape`] = quantity[name].shape;
          }
        }
        found.quantities.push(read);
      }
      found.firstPair = [];
      let pairs = 0;
      for (const model of payload.models) {
        found.firstPair.push(pairs);
        pairs += model.rates.length;
      }
      found.numPairs = pairs;
      return found;
    }

    // Chooses learning rates by a rule.
    use(rule) {
      return Object.assign(this, this.byRule[rule]);
    }

    // The number of a model's runs at a place in the grid of rates; -1 for none.
    pair(m, place) {
      const at = this.models[m].rates.indexOf(place);
      return at < 0 ? -1 : this.firstPair[m] + at;
    }

    rate(m, pair) {
      return this.rates === null ? null : this.rates[this.models[m].rates[pair - this.firstPair[m]]];
    }

    nearestPair(m, wanted) {
      const own = this.models[m].rates;
      if (!own.length) return -1;
      return this.firstPair[m] + nearest(own.map((place) => this.rates[place]), wanted);
    }

    // Steps to a target: the median or a quartile over seeds.
    steps(pair, part, target) {
      if (pair < 0) return Infinity;
      const code = this.passages[(pair * 3 + part) * this.targets.factors.length + target];
      return code === 0 ? Infinity : (code - 1) / 2;
    }

    // Lower quartile, median and upper quartile of the last excess loss.
    finals(pair) {
      return pair < 0 ? [NaN, NaN, NaN] : [...this.final.subarray(3 * pair, 3 * pair + 3)];
    }

    best(m, target) {
      const place = this.bestAt[m * this.targets.factors.length + target];
      return place < 0 ? -1 : this.pair(m, place);
    }

    // The speed-up over the baseline and the ends of its interval.
    speedUp(m, target) {
      const length = this.targets.factors.length;
      return [0, 1, 2].map((part) => this.speedUps[(m * 3 + part) * length + target]);
    }

    level(m, target) {
      return this.targets.of[m] * this.targets.factors[target];
    }
  }

  const value = (quantity, code) => {
    if (code === 0) return null;
    const place = (code - 1) * quantity.step;
    return quantity.log ? quantity.low * Math.exp(place) : quantity.low + place;
  };

  function curve(quantity, name, row) {
    const length = quantity.steps.length;
    return Array.from(quantity[name].subarray(row * length, (row + 1) * length), (code) =>
      value(quantity, code),
    );
  }

  // As statistics.bounded has it: the value to show, and whether it is a bound.
  function bounded(results, m, target) {
    const [ratio, low, high] = results.speedUp(m, target);
    const base = results.models[m].baseline;
    const own = results.steps(results.best(m, target), MEDIAN, target);
    const other = results.steps(results.best(base, target), MEDIAN, target);
    if (ratio === Infinity) return { value: results.num_steps / Math.max(own, 1), bound: ">" };
    if (ratio === 0) return { value: Math.max(other, 1) / results.num_steps, bound: "<" };
    return { value: ratio, low, high, bound: "" };
  }

  // --- elements ---

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, given] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), given);
      else if (given === true) made.setAttribute(name, "");
      else if (given !== false && given !== null && given !== undefined) made.setAttribute(name, given);
    }
    made.append(...children);
    return made;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  // A cell of a CSV file; a spreadsheet takes none for a formula.
  function cell(content) {
    if (content === null || content === undefined) return "";
    if (typeof content === "number") return String(Number(content.toPrecision(4)));
    const text = /^[=+@\-\t]./.test(content) ? `'${content}` : content;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  // --- the explorer ---

  class Explorer {
    constructor(section) {
      const given = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
      this.section = section;
      this.key = given.key;
      this.command = given.command;
      this.commands = given.commands ?? {};
      this.drawn = 1; // up to which share of the steps curves are drawn
      this.frame = null; // of the animation, while it runs
      this.given = given.results;
      this.read = new Map();
      this.started = null;
    }

    start() {
      this.started ??= this.begin();
      return this.started;
    }

    async begin() {
      try {
        this.state = this.first(await this.results(0), 0);
      } catch (error) {
        this.section.append(
          element("p", {}, "This browser is too old to draw the explorer (it must know DecompressionStream)."),
        );
        throw error;
      }
      this.build();
      await this.choose(0);
      new ResizeObserver(() => this.redraw()).observe(this.parts.charts);
      window.matchMedia("print").addEventListener("change", () => this.redraw());
      window.addEventListener("resize", () => this.state.present && this.redraw());
      document.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && this.state.present) this.present("");
      });
    }

    async results(number) {
      if (!this.read.has(number)) this.read.set(number, await Results.of(this.given[number][1]));
      return this.read.get(number);
    }

    // What is shown before anything is chosen.
    first(results, number) {
      const loss = results.axes.find((axis) => axis.name === "loss_name");
      const curves = results.models.length / (loss ? loss.values.length : 1);
      const off = new Set();
      if (curves > MOST_AT_FIRST) {
        for (const axis of results.axes.slice(1)) {
          if (axis !== loss) axis.values.slice(1).forEach((label) => off.add(label));
        }
      }
      return {
        number, off, rule: results.own, beside: "", present: "",
        loss: loss ? loss.values[Math.max(0, loss.of[results.opens_at])] : null, rate: null, target: results.targets.first,
        quantity: results.quantities[0].name, view: this.reason(results) ? "reason" : this.views(results)[0] ?? "", linear_step: false,
        linear_loss: false, seeds: false, theory: results.quantities.some((q) => q.predicted || q.threshold),
        published: true, predict: false, revealed: false,
      };
    }

    views(results) {
      return [
        ...(results.rates !== null && results.rates.length > 1 ? ["rates"] : []),
        ...(results.models.some((m, i) => m.baseline !== null && m.baseline !== i) &&
        results.targets.factors.length > 1
          ? ["speed_up"]
          : []),
        ...(this.reason(results) || this.commands.record ? ["reason"] : []),
      ];
    }

    // What was recorded of the effective learning rate, if it was.
    reason(results) {
      return results.quantities.find((q) => q.name === REASON);
    }

    // --- the state and its address ---

    values() {
      const { state, now } = this;
      const first = this.first(now, state.number);
      const changed = (name, value = state[name]) => (state[name] === first[name] ? "" : value);
      const flags = ["linear_step", "linear_loss", "seeds", "theory", "published", "predict", "revealed"];
      const same = state.off.size === first.off.size && [...state.off].every((label) => first.off.has(label));
      return {
        of: state.number ? this.given[state.number][0] : "",
        rule: changed("rule"),
        loss: changed("loss"),
        beside: changed("beside"),
        present: changed("present"),
        off: same ? "" : [...state.off].join("|") || "-",
        lr: state.rate === null ? "" : now.rates[state.rate],
        target: changed("target", Number(now.level(this.reference(), state.target).toPrecision(6))),
        show: changed("quantity"),
        view: changed("view"),
        ...Object.fromEntries(flags.map((name) => [name, changed(name, Number(state[name]))])),
      };
    }

    // The model in units of which targets are shown.
    reference() {
      return Math.max(0, this.now.models.findIndex((_, m) => this.ofLoss(m)));
    }

    // Takes a state from the address; what does not fit these results is left as it is at first.
    async adopt(values) {
      await this.start();
      const number = Math.max(0, this.given.findIndex(([name]) => name === values.of));
      const results = await this.results(number);
      const state = this.first(results, number);
      const labels = results.axes.flatMap((axis) => axis.values);
      const loss = results.axes.find((axis) => axis.name === "loss_name");
      if (loss?.values.includes(values.loss)) state.loss = values.loss;
      if (loss?.values.includes(values.beside) && values.beside !== state.loss) state.beside = values.beside;
      if (values.rule in results.byRule) state.rule = values.rule;
      if (values.off) state.off = new Set(values.off.split("|").filter((label) => labels.includes(label)));
      if (results.rates !== null && Number(values.lr) > 0) {
        state.rate = nearest(results.rates, Number(values.lr));
      }
      if (results.quantities.some((q) => q.name === values.show)) state.quantity = values.show;
      if (this.views(results).includes(values.view)) state.view = values.view;
      if (values.present === "1" || (values.present === "2" && state.view)) state.present = values.present;
      for (const name of ["linear_step", "linear_loss", "seeds", "theory", "published", "predict", "revealed"]) {
        if (values[name]) state[name] = values[name] === "1";
      }
      this.state = state;
      this.now = results;
      if (Number(values.target) > 0) {
        const levels = results.targets.factors.map((_, t) => results.level(this.reference(), t));
        state.target = nearest(levels, Number(values.target));
      }
      await this.choose(number, state);
    }

    remember() {
      clearTimeout(this.writing);
      this.writing = setTimeout(() => pageState.write(this.key, this.values()), 120);
    }

    change(changes) {
      Object.assign(this.state, changes);
      this.redraw();
      this.remember();
    }

    // --- controls ---

    build() {
      const parts = (this.parts = {});
      parts.bar = element("div", { class: "controls bar" });
      parts.choices = element("div", { class: "controls choices" });
      parts.sliders = element("div", { class: "controls sliders" });
      parts.toggles = element("div", { class: "controls toggles" });
      parts.card = element("div", { class: "card", role: "note" });
      parts.headline = element("h2", { class: "headline" });
      parts.answer = element("div", { class: "said", role: "status", "aria-live": "polite" });
      // Two losses have two columns.
      parts.columns = ["", " of the other loss"].map((suffix) => ({
        one: this.chart(`against the step${suffix}`), two: this.chart(`at every learning rate or target${suffix}`),
      }));
      parts.charts = element("div", { class: "charts" });
      parts.table = element("div", {
        class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of the curves shown",
      });
      parts.note = element("p", { class: "soft" });
      parts.message = element("span", { class: "soft", role: "status" });
      const show = (this.show = (text) => {
        parts.message.textContent = text;
        setTimeout(() => (parts.message.textContent = ""), 4000);
      });
      const link = async () => {
        const done = await copy(location.href.split("#")[0] + pageState.hash(this.key, this.values()));
        show(done ? "link copied" : "the browser does not let a page copy");
      };
      parts.tools = element(
        "div", { class: "controls tools" },
        element("button", { type: "button", onclick: () => this.download() }, "Download what is shown (CSV)"),
        element("button", { type: "button", onclick: link }, "Copy a link to this view"),
        parts.message,
      );
      if (this.command) {
        parts.command = this.copyable(this.command, "Copy the command");
        parts.tools.prepend(parts.command);
      }
      this.section.append(
        parts.card, parts.headline, parts.bar, parts.charts, element("div", { class: "panel" }, parts.choices, parts.sliders, parts.toggles),
        parts.answer, parts.table, parts.note, parts.tools,
      );
    }

    // A command with a button that copies it.
    copyable(command, name) {
      const code = element("code", {}, command);
      const copied = async () =>
        this.show((await copy(code.textContent)) ? "command copied" : "select it to copy it");
      return element(
        "div", { class: "command" }, code,
        element("button", { type: "button", onclick: copied, "aria-label": name }, "Copy"),
      );
    }

    // A figure with a chart in it that the pointer and the keys read.
    chart(what) {
      const area = element("div", {
        class: "chart", tabindex: 0, role: "group",
        "aria-label": `Chart ${what}: the arrow keys read its values`,
      });
      const tip = element("div", { class: "tip", role: "status", hidden: true });
      const title = element("figcaption");
      const card = element("div", { class: "card", hidden: true });
      const part = { area, tip, title, card, figure: element("figure", {}, title, area, card, tip), index: null };
      part.chart = lineChart(area);
      const leave = () => {
        part.index = null;
        tip.hidden = true;
        if (part.chart.model) part.chart.point(null);
      };
      area.addEventListener("pointermove", (event) => {
        const at = part.chart.at(event);
        if (part.drag && at) {
          part.drag(at);
        } else if (at?.inside) {
          area.style.cursor = part.grip?.(at) ? part.cursor : "";
          this.readOut(part, nearestOn(part.chart.model, at.x));
        } else {
          leave();
        }
      });
      area.addEventListener("pointerleave", leave);
      area.addEventListener("blur", leave);
      area.addEventListener("pointerdown", (event) => {
        const at = part.chart.at(event);
        const drag = at?.inside ? part.grip?.(at) : null;
        if (!drag) return;
        part.drag = drag;
        area.setPointerCapture(event.pointerId);
        leave();
        drag(at);
      });
      for (const name of ["pointerup", "pointercancel"]) {
        area.addEventListener(name, () => (part.drag = null));
      }
      area.addEventListener("keydown", (event) => {
        const { stops } = part.chart.model;
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (event.key === "Escape") leave();
        if (!by || !stops.length) return;
        event.preventDefault();
        const turn = part.chart.model.xReverse ? -by : by;
        const next = part.index === null ? (turn > 0 ? 0 : stops.length - 1) : part.index + turn;
        this.readOut(part, Math.min(Math.max(next, 0), stops.length - 1));
      });
      return part;
    }

    // Shows the values of all curves at a place on the x-axis.
    readOut(part, index) {
      const { model } = part.chart;
      const x = model.stops[index];
      if (x === undefined) return;
      part.index = index;
      const read = model.read(index);
      part.chart.point(x, read.filter((r) => r.y !== null));
      part.tip.replaceChildren(
        element("strong", {}, model.where(index)),
        ...read.map((r) => element("div", {}, swatch(r.colour, r.dash), r.text)),
      );
      part.tip.hidden = false;
      const half = part.area.clientWidth / 2;
      const svg = part.area.querySelector("svg").getBoundingClientRect();
      const from = part.area.getBoundingClientRect();
      const px = svg.left - from.left + part.chart.pixelsAcross(x);
      part.tip.style.left = px > half ? "" : `${px + 16}px`;
      part.tip.style.right = px > half ? `${part.area.clientWidth - px + 16}px` : "";
    }

    // Shows one of several results.
    async choose(number, state) {
      this.now = await this.results(number);
      this.state = state ?? this.first(this.now, number);
      this.makeBar();
      this.makeChoices();
      this.makeSliders();
      this.makeToggles();
      this.redraw();
    }

    // What changes the whole picture: the rule, the losses, and how it is shown.
    makeBar() {
      const { parts, state, now } = this;
      const rows = [];
      const rules = Object.keys(SHORT_RULES).filter((rule) => rule in now.byRule);
      if (rules.length > 1) {
        const buttons = rules.map((rule) => {
          const input = element("input", {
            type: "radio", name: `${this.key}-rule`, value: rule, onchange: () => this.change({ rule }),
          });
          input.checked = rule === state.rule;
          return element("label", { title: BEST_BY_WORDS[rule] }, input, element("span", {}, SHORT_RULES[rule]));
        });
        rows.push(element("fieldset", { class: "segments" }, element("legend", {}, "Best rates by"), ...buttons));
      }
      const axis = now.axes.find((a) => a.name === "loss_name");
      if (axis) {
        const choose = (loss) => {
          this.change({ loss, beside: this.state.beside === loss ? this.state.loss : this.state.beside });
          this.makeBar();
          document.getElementById(`${this.key}-loss`).focus();
        };
        const others = axis.values.filter((loss) => loss !== state.loss);
        const none = "none";
        rows.push(
          this.select("Loss", axis.values, state.loss, choose),
          this.select("side by side with", [none, ...others], state.beside || none, (beside) =>
            this.change({ beside: beside === none ? "" : beside }),
          ),
        );
      }
      parts.play = element("button", { type: "button", onclick: () => this.play() });
      const other = (was) => (was === "1" && this.state.view ? "2" : "1");
      parts.other = element("button", {
        type: "button", onclick: () => this.present(other(this.state.present)),
      }, "Other chart");
      parts.present = element("button", {
        type: "button", onclick: () => this.present(this.state.present ? "" : "1"),
      });
      parts.bar.replaceChildren(...rows, element("div", { class: "buttons" }, parts.play, parts.other, parts.present));
    }

    // --- showing it to others ---

    // Shows one chart on the whole screen, or none.
    present(present) {
      const left = this.state.present && !present;
      this.change({ present });
      if (left) this.section.scrollIntoView();
      this.parts.present.focus();
    }

    // Lets nothing but this explorer be reached while it fills the screen.
    stage() {
      const { state, parts } = this;
      const staged = Boolean(state.present);
      if (this.section.classList.contains("staged") !== staged) {
        document.documentElement.classList.toggle("presenting", staged);
        this.section.classList.toggle("staged", staged);
        for (let part = this.section; part !== document.body; part = part.parentElement) {
          for (const other of part.parentElement.children) {
            if (other !== part) other.toggleAttribute("inert", staged);
          }
        }
      }
      const [{ one, two }] = parts.columns;
      one.figure.classList.toggle("chosen", state.present === "1");
      two.figure.classList.toggle("chosen", state.present === "2");
      parts.present.textContent = staged ? "Leave (Esc)" : "Present";
      parts.other.hidden = !(staged && state.view);
    }

    // Draws the curves along the steps, or pauses. Where the reader prefers no motion, every call
    // draws a further piece.
    play() {
      if (this.frame !== null) {
        cancelAnimationFrame(this.frame);
        this.frame = null;
        this.showPlay();
        return;
      }
      if (this.drawn >= 1) this.drawn = 0;
      if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
        this.reveal(Math.min(1, this.drawn + 1 / 5));
        return;
      }
      let before = performance.now();
      const next = (now) => {
        this.frame = requestAnimationFrame(next);
        this.reveal(this.drawn + Math.max(now - before, 0) / (1000 * PLAY_SECONDS));
        before = now;
      };
      this.frame = requestAnimationFrame(next);
      this.showPlay();
    }

    reveal(share) {
      this.drawn = Math.min(share, 1);
      if (this.drawn >= 1 && this.frame !== null) {
        cancelAnimationFrame(this.frame);
        this.frame = null;
      }
      for (const part of this.alongSteps) part.chart.reveal(this.drawn);
      this.showPlay();
    }

    showPlay() {
      const text = this.frame !== null ? "❚❚ Pause" : this.drawn < 1 ? "▶ Go on" : "▶ Play";
      if (this.parts.play.textContent !== text) this.parts.play.textContent = text;
    }

    makeChoices() {
      const { parts, state, now } = this;
      const rows = [];
      if (this.given.length > 1) {
        rows.push(
          this.select("Results", this.given.map(([name]) => name), this.given[state.number][0], (name) => {
            this.choose(this.given.findIndex(([other]) => other === name)).then(() => this.remember());
          }),
        );
      }
      for (const [place, axis] of now.axes.entries()) {
        if (axis.name === "loss_name") continue; // in the bar
        const boxes = axis.values.map((label, i) =>
          this.checkbox(label, () => !this.state.off.has(label), (on) => {
            this.state.off[on ? "delete" : "add"](label);
            this.change({});
          }, place === 0 ? swatch(`var(--series-${i % this.colours()})`) : ""),
        );
        rows.push(element("fieldset", {}, element("legend", {}, axis.name.replaceAll("_", " ")), ...boxes));
      }
      if (now.quantities.length > 1) {
        const words = now.quantities.map((q) => q.words);
        const own = now.quantities.find((q) => q.name === state.quantity).words;
        rows.push(
          this.select("Shown against the step", words, own, (chosen) =>
            this.change({ quantity: now.quantities[words.indexOf(chosen)].name }),
          ),
        );
      }
      parts.choices.replaceChildren(...rows);
      parts.choices.hidden = !rows.length;
    }

    colours() {
      return Number(getComputedStyle(document.documentElement).getPropertyValue("--num-series")) || 7;
    }

    makeSliders() {
      const { parts, now } = this;
      const made = [];
      this.outputs = [];
      if (now.rates !== null && now.rates.length > 1) {
        made.push(
          this.slider("Learning rate η", now.rates.length, "best rates", {
            toggles: true,
            get: () => this.state.rate, free: () => this.middleRate(),
            set: (rate) => this.change({ rate }),
            words: () => (this.state.rate === null ? "best rate for each model" : three(now.rates[this.state.rate])),
          }),
        );
      }
      if (now.targets.factors.length > 1) {
        made.push(
          this.slider("Target excess loss ε", now.targets.factors.length, this.resetWords(), {
            get: () => (this.state.target === now.targets.first ? null : this.state.target),
            free: () => now.targets.first,
            set: (target) => this.change({ target: target ?? now.targets.first }),
            words: () => this.targetWords(...this.losses()),
          }),
        );
      }
      parts.sliders.replaceChildren(...made);
    }

    // Where the slider rests while each model is at its best: at the baseline's, or the first one's.
    middleRate() {
      const { now } = this;
      const shown = this.shown();
      const base = shown.find((m) => now.models[m].baseline === m) ?? shown[0] ?? 0;
      return Math.max(0, now.bestAt[base * now.targets.factors.length + this.state.target]);
    }

    // Where the target slider's button leads: to the run's own target.
    resetWords() {
      const { of, zero, own } = this.now.targets;
      const shares = (own && zero ? of.map((level, m) => (100 * level) / zero[m]) : of).map(three);
      return new Set(shares).size === 1 ? `reset to ${shares[0]}${own && zero ? " %" : ""}` : "reset";
    }

    slider(name, length, freeName, { toggles = false, get, free, set, words }) {
      const id = `${this.key}-${name.split(" ")[0].toLowerCase()}`;
      const output = element("output", { for: id });
      const input = element("input", {
        type: "range", id, min: 0, max: length - 1, step: 1, "aria-describedby": `${id}-free`,
        oninput: () => set(Number(input.value)),
      });
      const button = element("button", {
        type: "button", id: `${id}-free`, onclick: () => set(get() === null && toggles ? free() : null),
      }, freeName);
      this.outputs.push(() => {
        input.value = get() ?? free();
        input.classList.toggle("resting", get() === null);
        input.setAttribute("aria-valuetext", words());
        output.textContent = words();
        button.setAttribute(toggles ? "aria-pressed" : "aria-disabled", String(get() === null));
      });
      return element(
        "div", { class: "slider" },
        element("label", { for: id }, name), output, input, button,
      );
    }

    makeToggles() {
      const { parts, now } = this;
      const made = [];
      const flag = (name, words, there = true) => {
        if (there) made.push(this.checkbox(words, () => this.state[name], (on) => this.change({ [name]: on })));
      };
      const views = this.views(now);
      if (views.length > 1) {
        const words = {
          rates: "steps to the target", speed_up: "speed-up against the target", reason: "effective learning rate",
        };
        made.push(
          this.select("Second chart", views.map((v) => words[v]), words[this.state.view], (chosen) =>
            this.change({ view: views.find((v) => words[v] === chosen) }),
          ),
        );
      }
      flag("seeds", "single seeds", now.num_seeds > 1);
      flag("theory", "theory", now.quantities.some((q) => q.predicted || q.threshold));
      flag("published", "published curves", now.published.length > 0);
      flag("linear_step", "linear steps");
      flag("linear_loss", "linear losses");
      made.push(
        this.checkbox("predict first", () => this.state.predict, (predict) =>
          this.change({ predict, revealed: false }),
        ),
      );
      parts.reveal = element("button", {
        type: "button", class: "reveal", onclick: () => this.change({ revealed: true }),
      }, "Show the others");
      parts.toggles.replaceChildren(...made);
    }

    select(name, values, chosen, act) {
      const id = `${this.key}-${name.toLowerCase().replaceAll(" ", "-")}`;
      const made = element(
        "select", { id, onchange: () => act(made.value) },
        ...values.map((text) => element("option", { value: text }, text)),
      );
      made.value = chosen;
      return element("div", { class: "choice" }, element("label", { for: id }, name), made);
    }

    checkbox(name, get, act, before = "") {
      const input = element("input", { type: "checkbox", onchange: () => act(input.checked) });
      input.checked = get();
      return element("label", { class: "check" }, input, before, name);
    }

    // --- what is shown ---

    ofLoss(m, loss = this.state.loss) {
      const axis = this.now.axes.find((a) => a.name === "loss_name");
      return !axis || axis.values[axis.of[m]] === loss;
    }

    // The losses that are shown; null where there is no choice of them.
    losses() {
      return this.state.beside ? [this.state.loss, this.state.beside] : [this.state.loss];
    }

    // Whether something is kept back until the class has said what it expects.
    get waiting() {
      return this.state.predict && !this.state.revealed;
    }

    // The models suffix curves are drawn, by number.
    shown(loss = this.state.loss) {
      const chosen = this.chosen(loss);
      if (!this.waiting) return chosen;
      const bases = chosen.filter((m) => this.now.models[m].baseline === m);
      return bases.length ? bases : chosen.slice(0, 1);
    }

    // The models that the reader has chosen, of which some may be kept back.
    chosen(loss) {
      const { now, state } = this;
      return now.models.map((_, m) => m).filter(
        (m) =>
          this.ofLoss(m, loss) && now.models[m].rates.length > 0 &&
          now.axes.every((axis) => axis.of[m] < 0 || !state.off.has(axis.values[axis.of[m]])),
      );
    }

    // A model's runs that are shown: at its best rate for the target, or the nearest to the slider's.
    pairOf(m) {
      const { now, state } = this;
      return state.rate === null ? now.best(m, state.target) : now.nearestPair(m, now.rates[state.rate]);
    }

    look(m) {
      const { now } = this;
      const [first, ...others] = now.axes.filter((axis) => axis.name !== "loss_name");
      const place = first ? Math.max(0, first.of[m]) : 0;
      const rank = (model) => JSON.stringify(others.map((axis) => axis.of[model]));
      const ranks = [...new Set(now.models.map((_, model) => rank(model)))];
      const number = place % this.colours();
      return {
        colour: `var(--series-${number})`, ink: `var(--ink-${number})`,
        dash: DASHES[ranks.indexOf(rank(m)) % DASHES.length],
      };
    }

    // What distinguishes a curve from the others that are shown.
    label(m, shown) {
      const { axes, models } = this.now;
      const differing = axes.filter(
        (axis, place) => place === 0 || new Set(shown.map((other) => axis.of[other])).size > 1,
      );
      const words = differing.filter((a) => a.of[m] >= 0 && a.name !== "loss_name").map((a) => a.values[a.of[m]]);
      return words.join(", ") || models[m].label;
    }

    // By which rule the learning rates were chosen.
    rule() {
      return BEST_BY_WORDS[this.now.best_by] ?? this.now.best_by;
    }

    targetWords(...losses) {
      const { now, state } = this;
      const shown = losses.map((loss) => this.chosen(loss)[0] ?? this.reference());
      const levels = shown.map((m) => now.level(m, state.target));
      const shares = shown.map((m, i) => now.targets.zero && three((100 * levels[i]) / now.targets.zero[m]));
      const share = (i) => (shares[i] ? ` (${shares[i]} % of the zero predictor’s)` : "");
      if (losses.length === 1) return `${three(levels[0])}${share(0)}`;
      const same = new Set(shares).size === 1;
      return losses.map((loss, i) => `${loss} ${three(levels[i])}${same ? "" : share(i)}`).join(", ") + (same ? share(0) : "");
    }

    // The comparison in words: a sentence per model.
    sentences(shown) {
      const { now, state } = this;
      const said = [];
      for (const m of shown) {
        const base = now.models[m].baseline;
        const name = this.label(m, shown.includes(base) ? shown : [...shown, base ?? m]);
        if (base === null) said.push(this.alone(m, name));
        else if (base !== m) said.push(state.rate === null ? this.atBest(m, name) : this.atRate(m, name));
        else if (shown.length === 1 || state.rate !== null) said.push(this.alone(m, name));
      }
      return said;
    }

    stepsWords(pair) {
      const { now, state } = this;
      const [low, middle, high] = [0, 1, 2].map((part) => now.steps(pair, part, state.target));
      return { middle, text: Number.isFinite(middle) ? `${count(middle)} steps [${count(low)}, ${count(high)}]` : "" };
    }

    alone(m, name) {
      const { now } = this;
      const pair = this.pairOf(m);
      if (pair < 0) return `${name} diverges at every learning rate.`;
      const { text } = this.stepsWords(pair);
      const rate = now.rate(m, pair);
      const at = rate === null ? "" : ` at learning rate ${three(rate)}`;
      const fate = now.diverged[pair] ? ` (${now.diverged[pair]} of ${now.num_seeds} runs diverge)` : "";
      return text
        ? `${name} takes ${text}${at}${fate}.`
        : `${name} does not get there within ${count(now.num_steps)} steps${at}${fate}.`;
    }

    atRate(m, name) {
      const { now } = this;
      const base = now.models[m].baseline;
      const own = this.stepsWords(this.pairOf(m)).middle;
      const other = this.stepsWords(this.pairOf(base)).middle;
      const said = this.alone(m, name);
      if (!Number.isFinite(own) || !Number.isFinite(other)) return said;
      const ratio = Math.max(other, 1) / Math.max(own, 1);
      const words = ratio >= 1 ? `${three(ratio)}× fewer` : `${three(1 / ratio)}× as many`;
      return `${said.slice(0, -1)}: ${words}${ratio >= 1 ? " than" : " as"} ${this.label(base, [m, base])}.`;
    }

    atBest(m, name, withRates = true) {
      const { now, state } = this;
      const base = now.models[m].baseline;
      const other = this.label(base, [m, base]);
      const [own, its] = [m, base].map((model) => now.rate(model, now.best(model, state.target)));
      const at = !withRates || now.rates === null || own === undefined || its === undefined ? ""
        : `, at learning rate ${three(own)} against ${three(its)}`;
      const { value: ratio, low, high, bound } = bounded(now, m, state.target);
      if (Number.isNaN(ratio)) return `Neither ${name} nor ${other} gets there within ${count(now.num_steps)} steps.`;
      if (bound === ">") return `${name} gets there and ${other} does not: at least ${three(ratio)}× fewer steps${at}.`;
      if (bound === "<") return `${other} gets there and ${name} does not: at least ${three(1 / ratio)}× the steps${at}.`;
      const clear = low <= 1 && high >= 1 ? "No clear difference: " : "";
      return ratio >= 1
        ? `${clear}${name} needs ${three(ratio)}× fewer steps than ${other}${between(low, high)}${at}.`
        : `${clear}${name} needs ${three(1 / ratio)}× the steps of ${other}${between(1 / high, 1 / low)}${at}.`;
    }

    // --- drawing ---

    redraw() {
      if (!this.parts || !this.now) return;
      const { parts, state } = this;
      const now = this.now.use(state.rule);
      document.documentElement.classList.toggle("waiting", this.waiting);
      this.outputs.forEach((update) => update());
      this.stage();
      this.showRule();
      this.showCard();
      const shown = this.losses().map((loss) => this.shown(loss));
      const names = this.losses().map((loss) => (loss === null ? "" : `${loss}: `));
      this.arrange(shown.length);
      const quantity = now.quantities.find((q) => q.name === state.quantity);
      const texts = shown.map((models, i) => {
        const goal = `To reach an excess loss of ${this.targetWords(this.losses()[i])}:`;
        return { goal, said: this.sentences(models) };
      });
      this.showAnswer(texts, names);
      const [loss] = this.losses();
      const answer = this.headline(shown[0]);
      parts.headline.textContent = loss === null || this.waiting ? capital(answer) : `With ${loss}: ${answer}`;
      this.alongSteps = [];
      shown.forEach((models, i) => {
        const { one, two } = parts.columns[i];
        const words = `${texts[i].goal} ${texts[i].said.join(" ")}`;
        this.drawSteps(one, models, words, names[i], quantity);
        two.figure.hidden = !state.view;
        const reason = state.view === "reason" ? this.reason(now) : null;
        two.card.hidden = state.view !== "reason" || Boolean(reason);
        two.area.hidden = !two.card.hidden;
        if (state.view === "rates") this.drawRates(two, models, words, names[i], shown.flat());
        if (state.view === "speed_up") this.drawSpeedUp(two, models, words, names[i]);
        if (reason) this.drawSteps(two, models, "", names[i], reason);
        if (!two.card.hidden) this.showReasonCard(two, names[i]);
      });
      this.showTable(shown, names);
      this.showNote(quantity);
      this.showPlay();
    }

    // Puts the figures into the grid: a column each, or two losses' next to each other.
    arrange(count) {
      const { charts, columns } = this.parts;
      if (charts.dataset.losses === String(count)) return;
      charts.dataset.losses = count;
      const used = columns.slice(0, count);
      charts.replaceChildren(...used.map((c) => c.one.figure), ...used.map((c) => c.two.figure));
    }

    // What the page says by the rule in use, here and around the explorer.
    showRule() {
      const { parts, state, now } = this;
      if (Object.keys(now.byRule).length > 1) {
        for (const part of document.querySelectorAll("[data-rule]")) part.hidden = part.dataset.rule !== state.rule;
      }
      if (parts.command) parts.command.querySelector("code").textContent = this.commands[state.rule] || this.command;
    }

    // While the class predicts: what is kept back, and how theory's prediction is had.
    showCard() {
      const { parts } = this;
      parts.card.hidden = !this.waiting;
      if (!this.waiting) return;
      const hidden = [...new Set(this.losses().flatMap((loss) => {
        const shown = this.shown(loss);
        return this.chosen(loss).filter((m) => !shown.includes(m)).map((m) => this.label(m, this.chosen(loss)));
      }))];
      const names = hidden.length > 4 ? `${hidden.length} other models` : hidden.join(", ");
      parts.card.replaceChildren(
        element("strong", {}, "What do you expect?"),
        element("p", {}, `Say it first. Kept back until then: the curves of ${names || "no model"}, their numbers and the answers.`),
        parts.reveal,
        ...(this.commands.predict
          ? [element("p", {}, "Theory’s prediction is not part of this page. This command draws it as dotted curves:"),
            this.copyable(this.commands.predict, "Copy the command for predictions")]
          : []),
      );
    }

    showReasonCard({ card, title }, name) {
      title.textContent = `${name}Effective learning rate against step: not recorded`;
      card.replaceChildren(
        element("p", {}, "Here one would see the factor by which each network’s product of matrices is moved: η‖w‖^(2 − 2/N) at depth N. It is η for one layer; for more it grows with the product’s norm ‖w‖."),
        element("p", {}, "This command records that norm (it trains again):"),
        this.copyable(this.commands.record, "Copy the command that records it"),
      );
    }

    showAnswer(texts, names) {
      const { answer } = this.parts;
      answer.dataset.losses = texts.length;
      answer.replaceChildren(
        ...texts.map(({ goal, said }, i) => {
          const most = said.length > MOST_SENTENCES ? [`… and ${said.length - MOST_SENTENCES} more, in the table below`] : [];
          return element(
            "div", {},
            element("p", {}, texts.length > 1 ? names[i] + goal : goal),
            element("ul", {}, ...[...said.slice(0, MOST_SENTENCES), ...most].map((text) => element("li", {}, text))),
          );
        }),
      );
    }

    // The answer in one sentence: of the model that is ahead of its baseline.
    headline(shown) {
      const { now, state } = this;
      if (this.waiting) return "what do you expect?";
      const compared = shown.filter((m) => now.models[m].baseline !== null && now.models[m].baseline !== m);
      if (!compared.length) return shown.length ? this.alone(shown[0], this.label(shown[0], shown)) : "";
      const final = now.best_by === "final" && state.rate === null;
      const gain = (m) => {
        if (final) return -now.finals(now.best(m, state.target))[MEDIAN];
        if (state.rate !== null) return -this.stepsWords(this.pairOf(m)).middle;
        return bounded(now, m, state.target).value;
      };
      const least = (m) => (Number.isNaN(gain(m)) ? -Infinity : gain(m));
      const best = compared.reduce((a, b) => (least(b) > least(a) ? b : a));
      const base = now.models[best].baseline;
      const name = this.label(best, [...shown, base]);
      if (!final) return state.rate === null ? this.atBest(best, name, false) : this.atRate(best, name);
      const [own, its] = [best, base].map((m) => now.finals(now.best(m, state.target))[MEDIAN]);
      const ratio = its / own;
      if (!Number.isFinite(ratio)) return `${name} ends at an excess loss of ${three(own)}.`;
      const words = ratio >= 1 ? `${three(ratio)}× lower than` : `${three(1 / ratio)}× higher than`;
      return `${name} ends at an excess loss ${words} ${this.label(base, [best, base])}.`;
    }

    // What enlarges a chart that fills the screen.
    enlarged(part) {
      const chosen = part.figure.classList.contains("chosen");
      return chosen ? { fills: true, zoom: Math.min(Math.max(window.innerWidth / 720, 1), 2.2) } : {};
    }

    drawSteps(part, shown, said, prefix, quantity) {
      const { now, state } = this;
      this.alongSteps.push(part);
      const { steps } = quantity;
      const isExcess = quantity.name === "excess_loss";
      const lines = [], bands = [], marks = [], rules = [], curves = [];
      for (const m of shown) {
        const pair = this.pairOf(m);
        if (pair < 0) continue;
        const look = this.look(m);
        const [low, middle, high] = [0, 1, 2].map((which) => curve(quantity, "spread", which * now.numPairs + pair));
        const name = this.label(m, shown);
        const rate = now.rate(m, pair);
        const at = quantity.pairs === null ? pair : quantity.pairs.indexOf(pair);
        const [, alone] = quantity.aloneShape;
        if (state.seeds && at >= 0) {
          for (let s = 0; s < alone; s++) {
            lines.push({
              ...look, dash: [], width: 0.8, opacity: 0.55, line: `seed ${s}`, name, rate,
              points: points(steps, curve(quantity, "alone", at * alone + s)),
            });
          }
        } else if (now.num_seeds > 1) {
          bands.push({ ...look, points: steps.map((x, i) => [x, low[i], low[i] === null ? null : high[i] ?? 1e300]) });
        }
        lines.push({
          ...look, width: 2.2, opacity: 1, label: name, line: "median", name, rate,
          points: points(steps, middle), low, high,
        });
        const last = middle.findLastIndex((y) => y !== null);
        if (last >= 0 && last < steps.length - 1) {
          marks.push({ x: steps[last], y: middle[last], shape: "M-1,-1L1,1M-1,1L1,-1", size: 70, colour: look.colour, fill: null });
        }
        let predicted = null;
        if (state.theory && quantity.predicted) {
          predicted = curve(quantity, "predicted", pair);
          lines.push({
            ...look, colour: "var(--ink)", width: 1.3, dash: [3, 3], opacity: 1, line: "predicted", name,
            rate, points: points(steps, predicted),
          });
        }
        const edge = quantity.threshold?.[pair];
        if (state.theory && edge) {
          rules.push({ x: null, y: edge, ...look, width: 1.2, dash: [5, 4], opacity: 1 });
        }
        curves.push({ m, name, look, low, middle, high, predicted, edge });
      }
      if (state.published && isExcess) {
        for (const other of now.published) {
          lines.push({
            colour: "var(--soft)", ink: "var(--soft)", dash: [2, 2], width: 1.5, opacity: 1, label: other.name,
            line: "published", name: other.name, rate: null, points: points(other.steps, other.losses),
          });
        }
      }
      const levels = [...new Set(shown.map((m) => now.level(m, state.target)))];
      if (isExcess) {
        for (const y of levels) rules.push({ x: null, y, colour: "var(--ink)", width: 1.3, dash: [4, 3], opacity: 0.8 });
      }
      // The reason is seen where each model is at its best: its rates span decades.
      const pairs = quantity.name === REASON ? curves.map((c) => this.pairOf(c.m)) : null;
      const heights = this.heights(quantity, shown, rules, pairs);
      const logY = quantity.log && heights[0] > 0 && !state.linear_loss;
      const after = steps.find((step) => step > 0) ?? 1;
      const ends = [state.linear_step ? 0 : after, Math.max(steps[steps.length - 1], 2 * after)];
      const what = isExcess ? "excess loss L − L*" : quantity.name === REASON ? "η‖w‖^(2 − 2/N)" : quantity.name.replaceAll("_", " ");
      const readings = curves.map((c) => {
        const known = c.middle.filter((y) => y !== null);
        return `${c.name} goes from ${three(known[0])} to ${three(known[known.length - 1])}` +
          (known.length < steps.length ? ", where it diverges" : "");
      });
      part.title.textContent = `${prefix}${capital(quantity.words)} against step, ` +
        (state.rate === null ? `each model at its best learning rate (${this.rule()})`
          : `at learning rate ${three(now.rates[state.rate])}, or each model’s nearest`);
      part.grip = (at) =>
        isExcess && now.targets.factors.length > 1 && levels.some((y) => Math.abs(at.pixels(y) - at.py) < 9)
          ? (to) => this.change({ target: nearest(now.targets.factors.map((_, t) => now.level(shown[0], t)), Math.max(to.y, 1e-300)) })
          : null;
      part.cursor = "ns-resize";
      part.chart.draw({
        ...this.enlarged(part), share: this.drawn,
        xType: state.linear_step ? "linear" : "log", yType: logY ? "log" : "linear",
        xDomain: ends, yDomain: logY ? heights : [Math.min(0, heights[0]), heights[1]],
        xTitle: "step", yTitle: what, lines, bands, marks, rules, stops: steps,
        description: `${capital(quantity.words)} against step. ${readings.join("; ")}. ${isExcess ? said : ""}`,
        where: (i) => `step ${count(steps[i])}`,
        read: (i) => curves.map((c) => ({
          ...c.look, y: c.middle[i],
          text: ` ${c.name}: ` + (c.middle[i] === null ? "diverged"
            : three(c.middle[i]) + (now.num_seeds > 1 ? ` [${three(c.low[i])}, ${three(c.high[i] ?? Infinity)}]` : "")) +
            (c.predicted && c.predicted[i] !== null ? `, predicted ${three(c.predicted[i])}` : "") +
            (state.theory && c.edge ? `, threshold ${three(c.edge)}` : ""),
        })),
      });
    }

    // The ends of the y-axis: the same at every learning rate, so that curves move and axes do not.
    heights(quantity, shown, rules, pairs = null) {
      const { now } = this;
      const seen = [], starts = [];
      for (const m of shown) {
        for (let i = 0; i < now.models[m].rates.length; i++) {
          if (pairs && !pairs.includes(now.firstPair[m] + i)) continue;
          const middle = curve(quantity, "spread", now.numPairs + now.firstPair[m] + i).filter((y) => y !== null);
          if (middle.length) starts.push(middle[0]);
          seen.push(...middle);
        }
      }
      if (!seen.length) return quantity.log ? [0.1, 1] : [0, 1];
      seen.sort((a, b) => a - b);
      // A run about to diverge leaves the chart.
      const most = quantity.name === "excess_loss"
        ? 5 * Math.max(...starts) : seen[Math.floor(0.98 * (seen.length - 1))] * 2;
      const marked = rules.filter((rule) => rule.y !== null).map((rule) => rule.y);
      let low = Math.min(seen[0], ...marked), high = Math.max(Math.min(seen[seen.length - 1], most), ...marked);
      if (quantity.log) {
        const room = Math.max((high / low) ** 0.04, 1.15);
        return [low / room, high * room];
      }
      const room = 0.05 * (high - low) || 1;
      return [low - room, high + room];
    }

    drawRates(part, shown, said, prefix, allShown) {
      const { now, state } = this;
      const lines = [], bands = [], marks = [], crosses = [], rules = [], curves = [];
      for (const m of shown) {
        const look = this.look(m);
        const own = now.models[m].rates.map((place) => now.rates[place]);
        const spread = [0, 1, 2].map((which) =>
          own.map((_, i) => now.steps(now.firstPair[m] + i, which, state.target)).map((s) => (Number.isFinite(s) ? Math.max(s, 1) : null)),
        );
        const name = this.label(m, shown);
        const [low, middle, high] = spread;
        for (let i = 0; i < own.length; i++) {
          if (now.lost[now.firstPair[m] + i] > (MOST_DIVERGED + 1e-9) * now.num_seeds) {
            crosses.push({ x: own[i], row: shown.length - 1 - shown.indexOf(m), shape: "M-1,-1L1,1M-1,1L1,-1", size: 22, colour: look.colour, fill: null });
          }
        }
        if (now.num_seeds > 1) {
          bands.push({ ...look, points: own.map((x, i) => [x, middle[i] === null ? null : low[i], middle[i] === null ? null : high[i] ?? now.num_steps]) });
        }
        lines.push({ ...look, width: 2, opacity: 1, label: name, line: "median", name, rate: null, points: points(own, middle), low, high });
        middle.forEach((y, i) => y !== null && marks.push({ x: own[i], y, shape: "circle", size: 14, colour: look.colour, fill: look.colour }));
        const best = now.best(m, state.target);
        const ring = best < 0 ? null : middle[best - now.firstPair[m]];
        if (ring !== null) marks.push({ x: now.rate(m, best), y: ring, shape: "circle", size: 150, colour: look.colour, fill: null });
        curves.push({ m, name, look, own, low, middle, high });
      }
      if (state.rate !== null) {
        rules.push({ x: now.rates[state.rate], y: null, colour: "var(--ink)", width: 1.3, dash: [4, 3], opacity: 0.8 });
      }
      const crossed = now.best_by === "stable" ? "runs are unstable" : "runs diverge";
      part.title.textContent = `${prefix}Steps to the target against learning rate (○ best: ${this.rule()}; × ${crossed})`;
      part.grip = () => (to) => this.change({ rate: nearest(now.rates, Math.max(to.x, 1e-300)) });
      part.cursor = "ew-resize";
      // The axis of rates is that of all losses shown; steps to the target may be far apart.
      const tried = now.rates.filter((_, place) => allShown.some((m) => now.models[m].rates.includes(place)));
      const least = Math.min(...shown.flatMap((m) =>
        now.models[m].rates.map((_, i) => now.steps(now.firstPair[m] + i, 0, state.target)),
      ));
      const all = tried.length ? tried : now.rates;
      part.chart.draw({
        ...this.enlarged(part),
        xType: "log", yType: "log", xDomain: [Math.min(...all) / 1.1, Math.max(...all) * 1.1],
        yDomain: [Math.max(Math.min(least, now.num_steps / 2), 1) / 1.2, now.num_steps * 1.15],
        xTitle: "learning rate η", yTitle: "steps to the target", labelsAt: "start", lines, bands, marks, crosses, rules, stops: all,
        description: `Steps to the target against learning rate. ${said}`,
        where: (i) => `learning rate ${three(all[i])}`,
        read: (i) => curves.map((c) => {
          const at = c.own.indexOf(all[i]);
          const pair = now.firstPair[c.m] + at;
          return {
            ...c.look, y: at < 0 ? null : c.middle[at],
            text: ` ${c.name}: ` + (at < 0 ? "not trained here" : this.stepsWords(pair).text || "not reached") +
              (at >= 0 && now.diverged[pair] ? ` (${now.diverged[pair]} of ${now.num_seeds} diverge)` : ""),
          };
        }),
      });
    }

    // In which unit targets lie on an axis: one that all models have in common.
    unit(shown) {
      const { now } = this;
      const same = (values) => values.every((v) => Math.abs(v / values[0] - 1) < 1e-4);
      const { of, zero, factors } = now.targets;
      const first = shown[0] ?? 0;
      if (same(shown.map((m) => of[m]))) {
        return { title: "target excess loss ε", at: factors.map((f) => of[first] * f), unit: "" };
      }
      if (zero && same(shown.map((m) => of[m] / zero[m]))) {
        return { title: "target ε, % of the zero predictor’s", at: factors.map((f) => (100 * f * of[first]) / zero[first]), unit: " %" };
      }
      return { title: "target ε, multiples of each model’s own", at: factors, unit: "×" };
    }

    drawSpeedUp(part, shown, said, prefix) {
      const { now, state } = this;
      const { title, at, unit } = this.unit(shown);
      const lines = [], bands = [], marks = [], curves = [], ends = [0.5, 2];
      for (const m of shown) {
        const base = now.models[m].baseline;
        if (base === null || base === m) continue;
        const look = this.look(m);
        const name = this.label(m, shown);
        const found = at.map((_, t) => bounded(now, m, t));
        const middle = found.map((f) => (f.bound || !Number.isFinite(f.value) ? null : f.value));
        const low = found.map((f, t) => (middle[t] === null || !(f.low > 0) ? null : f.low));
        const high = found.map((f, t) => (middle[t] === null || !Number.isFinite(f.high) ? null : f.high));
        ends.push(...[...middle, ...low, ...high].filter((v) => v !== null));
        found.forEach((f, t) => {
          if (!f.bound) return;
          ends.push(f.value);
          marks.push({ x: at[t], y: f.value, shape: f.bound === ">" ? "triangle-up" : "triangle-down", size: 40, colour: look.colour, fill: null });
        });
        bands.push({ ...look, points: at.map((x, t) => [x, low[t], high[t]]) });
        lines.push({ ...look, width: 2.2, opacity: 1, label: name, line: "speed-up", name, rate: null, points: points(at, middle), low, high });
        curves.push({ name, look, found, middle });
      }
      const rules = [
        { x: null, y: 1, colour: "var(--soft)", width: 1, dash: [], opacity: 1 },
        { x: at[state.target], y: null, colour: "var(--ink)", width: 1.3, dash: [4, 3], opacity: 0.8 },
      ];
      part.title.textContent = `${prefix}Speed-up over the baseline against the target, each model at its best learning rate for it (${this.rule()}; △ at least, ▽ at most)`;
      part.grip = () => (to) => this.change({ target: nearest(at, Math.max(to.x, 1e-300)) });
      part.cursor = "ew-resize";
      part.chart.draw({
        ...this.enlarged(part),
        xType: "log", yType: "log", xReverse: true,
        xDomain: [Math.min(...at) / 1.05, Math.max(...at) * 1.05],
        yDomain: [Math.min(...ends) / 1.15, Math.max(...ends) * 1.15],
        xTitle: `${title} (harder →)`, yTitle: "times fewer steps", lines, bands, marks, rules, stops: at,
        description: `Speed-up over the baseline against the target. ${said}`,
        where: (t) => `target ${three(at[t])}${unit}`,
        read: (t) => curves.map((c) => {
          const f = c.found[t];
          return {
            ...c.look, y: c.middle[t],
            text: ` ${c.name}: ` + (Number.isNaN(f.value) ? "neither gets there"
              : `${f.bound === ">" ? "at least " : f.bound === "<" ? "at most " : ""}${three(f.value)}×` +
                (f.bound ? "" : between(f.low, f.high))),
          };
        }),
      });
    }

    showTable(columns, names) {
      const { now, state, parts } = this;
      const all = columns.flatMap((shown, i) => shown.map((m) => ({ m, shown, name: columns.length > 1 ? names[i] : "" })));
      const heads = ["curve", "learning rate", "steps to the target [quartiles]", "final excess loss [quartiles]", "diverged"];
      const compared = state.rate === null && all.some(({ m }) => now.models[m].baseline !== null);
      if (compared) heads.splice(3, 0, `speed-up [${now.interval}]`);
      const rows = all.map(({ m, shown, name }) => {
        const pair = this.pairOf(m);
        const rate = pair < 0 ? null : now.rate(m, pair);
        const [low, middle, high] = now.finals(pair);
        const cells = [
          pair < 0 ? "every rate diverges" : rate === null ? "–" : three(rate),
          pair < 0 ? "never" : this.stepsWords(pair).text || "never",
          Number.isFinite(middle) ? `${three(middle)} [${three(low)}, ${three(high)}]` : "diverged",
          pair < 0 ? "–" : `${now.diverged[pair]} of ${now.num_seeds}`,
        ];
        if (compared) cells.splice(2, 0, this.ratioCell(m));
        return element(
          "tr", {},
          element("th", { scope: "row" }, swatch(this.look(m).colour, this.look(m).dash), ` ${name}${this.label(m, shown)}`),
          ...cells.map((text) => element("td", {}, text)),
        );
      });
      parts.table.replaceChildren(
        element(
          "table", { class: "numbers" },
          element("thead", {}, element("tr", {}, ...heads.map((n) => element("th", { scope: "col" }, n)))),
          element("tbody", {}, ...rows),
        ),
      );
    }

    ratioCell(m) {
      const { now, state } = this;
      const base = now.models[m].baseline;
      if (base === null) return "–";
      if (base === m) return "1 (baseline)";
      const { value: ratio, low, high, bound } = bounded(now, m, state.target);
      if (Number.isNaN(ratio)) return "–";
      return bound ? `${bound} ${three(ratio)}×` : `${three(ratio)}×${between(low, high)}`;
    }

    showNote(quantity) {
      const { now, state, parts } = this;
      const kept = quantity.steps.length;
      const thinned = kept < quantity.records
        ? `Of ${count(quantity.records)} recorded steps ${count(kept)} are drawn: in each of ${count((kept - 1) / 2)} ranges of steps the smallest and the largest value, so that no burst is hidden. `
        : `All ${count(kept)} recorded steps are drawn. `;
      const [, alone] = quantity.aloneShape;
      const seeds = state.seeds
        ? `Thin lines are ${alone < now.num_seeds ? `the first ${alone} of ${now.num_seeds}` : "the"} seeds${quantity.pairs === null ? "" : ", at each model’s best rate for the run’s own target only"}. `
        : now.num_seeds > 1 ? `Lines are medians over ${now.num_seeds} seeds, bands quartiles; diverged runs count as infinite loss. ` : "";
      const bound = "A cross ends a line where the median run diverges. ";
      const exact = `Drawn values are rounded to ${three(50 * (Math.exp(quantity.step) - 1))} %; `;
      parts.note.textContent =
        seeds + bound + thinned + (quantity.log ? exact : "") +
        (now.targets.own ? "steps to the run’s own target are exact, those to other targets" : "steps to targets") +
        " are the first recorded ones. " +
        `In brackets: the ${now.interval === "95 %" ? "95 % interval" : now.interval} of speed-ups, quartiles of all else.`;
    }

    // --- what is taken along ---

    csv() {
      const { now, parts, state } = this;
      const rows = [["chart", "line", "curve", "learning_rate", "x", "y", "low", "high", "best_by"]];
      const second = {
        rates: "steps to target against learning rate", speed_up: "speed-up against target", reason: `${REASON} against step`,
      }[state.view];
      const charts = this.losses().flatMap((loss, i) => {
        const { one, two } = parts.columns[i];
        const prefix = state.beside ? `${loss}: ` : "";
        return [
          [`${prefix}${state.quantity} against step`, one],
          ...(second && two.card.hidden ? [[prefix + second, two]] : []),
        ];
      });
      for (const [name, part] of charts) {
        const atBest = part === parts.columns[0].one || part === parts.columns[1].one || state.view === "reason"
          ? state.rate === null : state.view !== "rates";
        for (const line of part.chart.model.lines) {
          const rule = atBest && line.line !== "published" ? now.best_by : null;
          line.points.forEach(([x, y], i) => {
            if (y !== null) rows.push([name, line.line, line.name, line.rate, x, y, line.low?.[i], line.high?.[i], rule]);
          });
        }
      }
      return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
    }

    download() {
      const address = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
      element("a", { href: address, download: `${this.key}.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    }
  }

  const points = (xs, ys) => xs.map((x, i) => [x, ys[i]]);

  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  function nearestOn(model, x) {
    const { stops, xType } = model;
    const far = xType === "log" ? (s) => (s > 0 ? distance(s, Math.max(x, 1e-300)) : Infinity) : (s) => Math.abs(s - x);
    return stops.reduce((best, s, i) => (far(s) < far(stops[best]) ? i : best), 0);
  }

  const SVG = "http://www.w3.org/2000/svg";

  // A piece of a curve's line, beside its name.
  function swatch(colour, dash = []) {
    const svg = document.createElementNS(SVG, "svg");
    const line = document.createElementNS(SVG, "line");
    const set = (made, values) => Object.entries(values).forEach(([n, v]) => made.setAttribute(n, v));
    set(svg, { class: "swatch", width: 22, height: 10, "aria-hidden": "true" });
    set(line, { x1: 1, x2: 21, y1: 5, y2: 5, "stroke-width": 3, "stroke-dasharray": dash.join(" ") });
    line.style.stroke = colour;
    svg.append(line);
    return svg;
  }

  // --- a page of explorers: those in sight at once, the others when there is time ---

  function begin() {
    const all = [...document.querySelectorAll("section.explorer")].map((section) => new Explorer(section));
    const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 50));
    const sight = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) {
        if (isIntersecting) all.find((explorer) => explorer.section === target).start();
      }
    }, { rootMargin: "600px" });
    for (const explorer of all) {
      sight.observe(explorer.section);
      pageState.listen(explorer.key, (values) => explorer.adopt(values));
    }
    const next = (i) => i < all.length && idle(() => all[i].start().finally(() => next(i + 1)));
    next(0);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
