// A chart of lines, drawn by Vega as SVG. What it shows is given whole; only what changes is redrawn.
"use strict";
window.lineChart = (() => {
  const EXPONENTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const LEAST_BETWEEN_LABELS = 14; // pixels

  // 0.01, 2,000, 10⁻⁵: as short as an axis needs it.
  function shortNumber(value) {
    const size = Math.abs(value);
    if (size === 0 || (size >= 0.00099 && size < 99999)) {
      return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
    }
    const [mantissa, exponent] = value.toExponential(1).split("e");
    const power = "10" + [...String(Number(exponent))].map((c) => EXPONENTS[c]).join("");
    return Number(mantissa) === 1 ? power : `${Number(mantissa)}·${power}`;
  }

  // Where a logarithmic axis has its ticks: powers of ten, or 1, 2, 5 of them where there is room.
  function logTicks([low, high], most) {
    const decades = Math.log10(high / low);
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      const steps = decades * 3 <= most ? [1, 2, 5] : [1];
      if (steps.length === 1 && decades > most && power % Math.ceil(decades / most)) continue;
      for (const step of steps) {
        const tick = Number(`${step}e${power}`);
        if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
      }
    }
    return found.length > 1 || decades * 3 > most ? found : null; // null: Vega's own
  }

  function axis(orient, scale, title, ticks, tickCount) {
    return {
      orient, scale, title, grid: true, tickCount, aria: false,
      values: ticks ?? undefined,
      domainColor: "var(--soft)", tickColor: "var(--soft)", gridColor: "var(--line)",
      labelColor: "var(--soft)", titleColor: "var(--ink)",
      titleFontWeight: "normal", titleFontSize: 13, labelFontSize: 11.5, titlePadding: 6,
      labelOverlap: true, labelFont: "system-ui, sans-serif", titleFont: "system-ui, sans-serif",
      encode: { labels: { update: { text: { signal: "shortNumber(datum.value)" } } } },
    };
  }

  const field = (name, scale) => ({ field: name, ...(scale ? { scale } : {}) });

  function specification(model, size) {
    const { width, height, padding } = size;
    const scale = (name, kind, range, domain, reverse) => ({
      name, type: kind, range, domain: { signal: domain }, zero: false, nice: false, reverse,
    });
    const strokes = {
      stroke: field("colour"), strokeWidth: field("width"), strokeDash: field("dash"),
      strokeOpacity: field("opacity"),
    };
    const parted = (data, mark) => ({
      type: "group", from: { facet: { name: `${data}_of_one`, data, groupby: "id" } },
      marks: [{ ...mark, from: { data: `${data}_of_one` }, aria: false }],
    });
    const ticks = (type, domain, room) => (type === "log" ? logTicks(domain, room) : null);
    const across = Math.max(3, Math.floor(width / 62));
    const up = Math.max(3, Math.floor(height / 34));
    return {
      width, height, padding, autosize: "none", background: null,
      signals: [
        { name: "xDomain", value: model.xDomain },
        { name: "yDomain", value: model.yDomain },
      ],
      data: ["bands", "lines", "rules", "marks", "labels", "cursor", "dots"].map((name) => ({
        name, values: [],
      })),
      scales: [
        scale("x", model.xType, [0, width], "xDomain", Boolean(model.xReverse)),
        scale("y", model.yType, [height, 0], "yDomain", false),
      ],
      axes: [
        axis("bottom", "x", model.xTitle, ticks(model.xType, model.xDomain, across), across),
        axis("left", "y", model.yTitle, ticks(model.yType, model.yDomain, up), up),
      ],
      marks: [
        {
          type: "group", clip: true,
          encode: { update: { width: { value: width }, height: { value: height } } },
          marks: [
            parted("bands", {
              type: "area",
              encode: {
                update: {
                  x: field("x", "x"), y: field("low", "y"), y2: field("high", "y"),
                  fill: field("colour"), fillOpacity: { value: 0.2 },
                  defined: { signal: "isValid(datum.low)" },
                },
              },
            }),
            {
              type: "rule", from: { data: "rules" }, aria: false,
              encode: {
                update: {
                  x: { signal: "datum.x === null ? 0 : scale('x', datum.x)" },
                  x2: { signal: `datum.x === null ? ${width} : scale('x', datum.x)` },
                  y: { signal: `datum.y === null ? ${height} : scale('y', datum.y)` },
                  y2: { signal: "datum.y === null ? 0 : scale('y', datum.y)" },
                  ...strokes,
                },
              },
            },
            parted("lines", {
              type: "line",
              encode: {
                update: {
                  x: field("x", "x"), y: field("y", "y"), ...strokes,
                  defined: { signal: "isValid(datum.y)" },
                },
              },
            }),
            {
              type: "rule", from: { data: "cursor" }, aria: false,
              encode: {
                update: {
                  x: field("x", "x"), y: { value: 0 }, y2: { value: height },
                  stroke: { value: "var(--soft)" }, strokeWidth: { value: 1 },
                },
              },
            },
          ],
        },
        ...["marks", "dots"].map((data) => ({
          type: "symbol", from: { data }, aria: false,
          encode: {
            update: {
              x: field("x", "x"), y: field("y", "y"), shape: field("shape"), size: field("size"),
              stroke: field("colour"), fill: field("fill"), strokeWidth: { value: 2 },
            },
          },
        })),
        {
          type: "text", from: { data: "labels" }, aria: false,
          encode: {
            update: {
              x: field("px"), y: field("py"), text: field("text"), fill: field("colour"),
              baseline: { value: "middle" }, font: { value: "system-ui, sans-serif" },
              fontSize: { value: 12.5 }, fontWeight: { value: 600 }, limit: field("limit"),
            },
          },
        },
      ],
    };
  }

  const pen = document.createElement("canvas").getContext("2d");

  function textWidth(text) {
    pen.font = "600 12.5px system-ui, sans-serif";
    return pen.measureText(text).width;
  }

  const within = (value, [low, high]) => value >= Math.min(low, high) && value <= Math.max(low, high);

  // The last point of a line that is to be seen, or the first.
  function endOf(line, model) {
    const seen = ([x, y]) => y !== null && within(y, model.yDomain) && within(x, model.xDomain);
    return (model.labelsAt === "start" ? line.points.find(seen) : line.points.findLast(seen)) ?? null;
  }

  // Moves labels up or down so that none is over another.
  function place(labels, height) {
    const meet = (a, b) => a.px < b.px + textWidth(b.text) && b.px < a.px + textWidth(a.text);
    labels.sort((a, b) => a.py - b.py);
    labels.forEach((label, i) => {
      for (const above of labels.slice(0, i)) {
        if (meet(label, above)) label.py = Math.max(label.py, above.py + LEAST_BETWEEN_LABELS);
      }
    });
    for (let i = labels.length - 1; i >= 0; i--) {
      labels[i].py = Math.min(labels[i].py, height + 4);
      for (const below of labels.slice(i + 1)) {
        if (meet(labels[i], below)) labels[i].py = Math.min(labels[i].py, below.py - LEAST_BETWEEN_LABELS);
      }
    }
    return labels;
  }

  return function lineChart(container) {
    let view = null;
    let drawn = ""; // the view's structure
    let making = false;
    let model = null;
    let size = null;

    function measure() {
      const outer = container.clientWidth;
      const texts = model.lines.filter((line) => line.label).map((line) => textWidth(line.label));
      const beside = model.labelsAt === "start" ? 0 : Math.max(0, ...texts);
      const right = Math.min(beside + 14, outer * 0.3);
      const padding = { left: 58, right: Math.ceil(right), top: 12, bottom: 46 };
      const width = Math.max(120, outer - padding.left - padding.right);
      return { width, height: Math.round(Math.min(Math.max(outer * 0.46, 220), 400)), padding };
    }

    // A logarithmic axis has no place for what is not above 0.
    const hasPlace = (point) =>
      (model.xType !== "log" || point[0] > 0) &&
      (model.yType !== "log" || point.slice(1).every((y) => y === null || y > 0));

    function rows(shapes, coordinates) {
      return shapes.flatMap((shape, id) =>
        shape.points.filter(hasPlace).map((point) => {
          const row = { ...shape, id, points: undefined, label: undefined };
          coordinates.forEach((name, i) => (row[name] = point[i]));
          return row;
        }),
      );
    }

    function labels() {
      const scale = { x: view.scale("x"), y: view.scale("y") };
      const found = [];
      for (const line of model.lines) {
        const end = line.label ? endOf(line, model) : null;
        if (end === null) continue;
        // Beside an end, above a start.
        const [right, up] = model.labelsAt === "start" ? [-2, 11] : [7, 0];
        const px = scale.x(end[0]) + right;
        const limit = size.width + size.padding.right - px;
        found.push({ px, py: scale.y(end[1]) - up, text: line.label, colour: line.ink, limit });
      }
      return place(found, size.height);
    }

    // What cannot be changed in a view that is there.
    const structure = () =>
      JSON.stringify([
        size, model.xType, model.yType, model.xDomain, model.yDomain, model.xTitle, model.yTitle,
        model.xReverse,
      ]);

    // Shows a model; while Vega is at work on another view, the last one that was asked for.
    async function draw(next) {
      model = next;
      if (container.clientWidth < 40 || making) return; // folded
      size = measure();
      while (structure() !== drawn) {
        making = true;
        drawn = structure();
        const place = document.createElement("div");
        const { view: made } = await vegaEmbed(place, specification(model, size), {
          mode: "vega", renderer: "svg", actions: false, tooltip: false, hover: false,
          defaultStyle: false, expressionFunctions: { shortNumber },
        });
        making = false;
        view?.finalize();
        view = made;
        container.replaceChildren(place);
        size = measure();
      }
      view.description(model.description);
      view.data("bands", rows(model.bands, ["x", "low", "high"]));
      view.data("lines", rows(model.lines, ["x", "y"]));
      view.data("rules", model.rules);
      // What has left the chart is marked at its edge.
      const [low, high] = model.yDomain;
      view.data("marks", model.marks.map((mark) => ({ ...mark, y: Math.min(Math.max(mark.y, low), high) })));
      view.data("labels", []);
      point(null);
      view.run();
      view.data("labels", labels()).run();
    }

    // Marks a place on the x-axis; null takes the mark away.
    function point(x, dots = []) {
      view.data("cursor", x === null ? [] : [{ x }]);
      view.data(
        "dots",
        dots
          .filter((dot) => within(dot.y, model.yDomain))
          .map((dot) => ({ ...dot, x: dot.x ?? x, shape: "circle", size: 46, fill: dot.colour })),
      );
    }

    // Where in the data an event of the pointer's is; null outside the axes.
    function at(event) {
      const svg = container.querySelector("svg");
      if (view === null || svg === null) return null;
      const box = svg.getBoundingClientRect();
      const { left, top } = size.padding;
      const px = ((event.clientX - box.left) / box.width) * svg.width.baseVal.value - left;
      const py = ((event.clientY - box.top) / box.height) * svg.height.baseVal.value - top;
      const inside = px >= -6 && px <= size.width + 6 && py >= -6 && py <= size.height + 6;
      return {
        x: view.scale("x").invert(px), y: view.scale("y").invert(py), py, inside,
        pixels: (y) => view.scale("y")(y),
      };
    }

    return {
      draw, at,
      // Of a place on the x-axis, from the left of the drawing.
      pixelsAcross: (x) => size.padding.left + view.scale("x")(x),
      point(x, dots) {
        if (view === null) return;
        point(x, dots);
        view.run();
      },
      get model() {
        return model;
      },
    };
  };
})();
