// A chart of lines, drawn by Vega as SVG. What it shows is given whole; only what changes is redrawn.
"use strict";
window.lineChart = (() => {
  const EXPONENTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const LEAST_BETWEEN_LABELS = 14; // pixels
  const CROSS_ROW = 9;

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

  function axis(orient, scale, title, ticks, tickCount, zoom) {
    return {
      orient, scale, title, grid: true, tickCount, aria: false,
      values: ticks ?? undefined,
      domainColor: "var(--soft)", tickColor: "var(--soft)", gridColor: "var(--line)",
      labelColor: "var(--soft)", titleColor: "var(--ink)",
      titleFontWeight: "normal", titleFontSize: 13 * zoom, labelFontSize: 11.5 * zoom, titlePadding: 6,
      labelOverlap: true, labelFont: "system-ui, sans-serif", titleFont: "system-ui, sans-serif",
      encode: { labels: { update: { text: { signal: "shortNumber(datum.value)" } } } },
    };
  }

  const field = (name, scale) => ({ field: name, ...(scale ? { scale } : {}) });

  function specification(model, size) {
    const { width, height, padding, zoom } = size;
    const scale = (name, kind, range, domain, reverse) => ({
      name, type: kind, range, domain: { signal: domain }, zero: false, nice: false, reverse,
    });
    const strokes = {
      stroke: field("colour"), strokeWidth: { signal: `datum.width * ${zoom}` }, strokeDash: field("dash"),
      strokeOpacity: field("opacity"),
    };
    const parted = (data, mark) => ({
      type: "group", from: { facet: { name: `${data}_of_one`, data, groupby: "id" } },
      marks: [{ ...mark, from: { data: `${data}_of_one` }, aria: false }],
    });
    const ticks = (type, domain, room) => (type === "log" ? logTicks(domain, room) : null);
    const across = Math.max(3, Math.floor(width / (62 * zoom)));
    const up = Math.max(3, Math.floor(height / (34 * zoom)));
    return {
      width, height, padding, autosize: "none", background: null,
      signals: [
        { name: "xDomain", value: model.xDomain },
        { name: "yDomain", value: model.yDomain },
      ],
      data: ["bands", "lines", "rules", "marks", "crosses", "labels", "cursor", "dots"].map((name) => ({
        name, values: [],
      })),
      scales: [
        scale("x", model.xType, [0, width], "xDomain", Boolean(model.xReverse)),
        scale("y", model.yType, [height, 0], "yDomain", false),
      ],
      axes: [
        axis("bottom", "x", model.xTitle, ticks(model.xType, model.xDomain, across), across, zoom),
        axis("left", "y", model.yTitle, ticks(model.yType, model.yDomain, up), up, zoom),
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
        ...["marks", "crosses", "dots"].map((data) => ({
          type: "symbol", name: `${data}_drawn`, from: { data }, aria: false,
          encode: {
            update: {
              // Crosses stand in rows above the axes.
              x: field("x", "x"), y: data === "crosses" ? field("py") : field("y", "y"), shape: field("shape"),
              size: { signal: `datum.size * ${zoom}` },
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
              fontSize: { value: 12.5 * zoom }, fontWeight: { value: 600 }, limit: field("limit"),
            },
          },
        },
      ],
    };
  }

  const pen = document.createElement("canvas").getContext("2d");

  function textWidth(text, zoom) {
    pen.font = `600 ${12.5 * zoom}px system-ui, sans-serif`;
    return pen.measureText(text).width;
  }

  const within = (value, [low, high]) => value >= Math.min(low, high) && value <= Math.max(low, high);

  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

  // Moves labels beside the ends of their lines up or down so that none is over another; those for
  // which there is no room are left out.
  function stack(labels, height, zoom) {
    const between = LEAST_BETWEEN_LABELS * zoom;
    const kept = labels.sort((a, b) => a.py - b.py).slice(0, Math.floor(height / between) + 1);
    const meet = (a, b) => a.px < b.px + b.width && b.px < a.px + a.width;
    kept.forEach((label, i) => {
      for (const above of kept.slice(0, i)) {
        if (meet(label, above)) label.py = Math.max(label.py, above.py + between);
      }
    });
    for (let i = kept.length - 1; i >= 0; i--) {
      kept[i].py = Math.min(kept[i].py, height - 2);
      for (const below of kept.slice(i + 1)) {
        if (meet(kept[i], below)) kept[i].py = Math.min(kept[i].py, below.py - between);
      }
    }
    return kept;
  }

  // Puts each label beside an end of its line, where it covers least of what is drawn and no other
  // label; one for which there is no such place is left out.
  function scatter(labels, taken, drawn, size) {
    const { width, height, padding, zoom } = size;
    const up = 7 * zoom;
    const placed = [];
    for (const label of labels) {
      let best = null;
      label.ends.forEach(([x, y], which) => {
        const [left, middle, right] = [x - 1.4 * up - label.width, x - label.width / 2, x + 1.4 * up];
        for (const [px, py] of [
          [middle, y - 2 * up], [right, y], [left, y], [middle, y + 2 * up],
          [right, y - 1.6 * up], [left, y - 1.6 * up], [right, y + 1.6 * up], [left, y + 1.6 * up],
        ]) {
          const box = boxOf({ px, py, width: label.width }, zoom);
          const inside = box.left >= 0 && box.right <= width + padding.right && box.top >= 0 && box.bottom <= height;
          if (!inside || [...taken, ...placed.map((other) => other.box)].some((other) => overlap(box, other))) continue;
          const cost = 3 * which + drawn.filter((shape) => overlap(box, shape)).length;
          if (best === null || cost < best.cost) best = { ...label, px, py, box, cost };
        }
      });
      if (best !== null) placed.push(best);
    }
    return placed;
  }

  const boxOf = ({ px, py, width }, zoom) => ({
    left: px - 2, right: px + width + 2, top: py - 7 * zoom, bottom: py + 7 * zoom,
  });

  const around = (x, y, by) => ({ left: x - by, right: x + by, top: y - by, bottom: y + by });

  // Squares along a line, close enough that no label lies between them.
  function along(pixels) {
    return pixels.flatMap(([x, y], i) => {
      const [nextX, nextY] = pixels[i + 1] ?? [x, y];
      const parts = Math.ceil(Math.hypot(nextX - x, nextY - y) / 5) || 1;
      return Array.from({ length: parts }, (_, k) =>
        around(x + ((nextX - x) * k) / parts, y + ((nextY - y) * k) / parts, 3),
      );
    });
  }

  return function lineChart(container) {
    let view = null;
    let drawn = ""; // the view's structure
    let making = false;
    let model = null;
    let size = null;
    let shown = 1; // the share of the axis up to which curves are drawn

    // Rows of crosses above the axes.
    const crossRows = () => new Set(model.crosses.map((cross) => cross.row)).size;

    function measure() {
      const zoom = model.zoom ?? 1;
      const outer = container.clientWidth;
      const texts = model.lines.filter((line) => line.label).map((line) => textWidth(line.label, zoom));
      const beside = model.labelsAt === "start" ? 0 : Math.max(0, ...texts);
      const right = Math.min(beside + 14 * zoom, outer * 0.3);
      const padding = {
        left: 66 * zoom, right: Math.ceil(right), top: 12 + CROSS_ROW * zoom * crossRows(), bottom: 46 * zoom,
      };
      const width = Math.max(120, outer - padding.left - padding.right);
      // A chart that fills the screen is as high as its container.
      const height = model.fills
        ? container.clientHeight - padding.top - padding.bottom
        : Math.min(Math.max(outer * 0.46, 220), 400) - CROSS_ROW * crossRows();
      return { width, height: Math.round(Math.max(height, 120)), padding, zoom };
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

    // The labels of lines, as far as these are drawn: up to a place on the x-axis. Beside the axes
    // they are stacked, elsewhere they stand where there is room.
    function labels(until = Infinity) {
      const { zoom } = size;
      const scale = { x: view.scale("x"), y: view.scale("y") };
      const seen = ([x, y]) => y !== null && x <= until && within(y, model.yDomain) && within(x, model.xDomain);
      const drawn = model.lines.map((line) => line.points.filter(seen).map(([x, y]) => [scale.x(x), scale.y(y)]));
      const found = model.lines.flatMap((line, i) => {
        const pixels = drawn[i];
        if (!line.label || !pixels.length) return [];
        const ends = [pixels[pixels.length - 1], pixels[0]];
        const [px, py] = [ends[0][0] + 7 * zoom, ends[0][1]];
        const width = textWidth(line.label, zoom);
        const room = size.width + size.padding.right - px;
        return [{ px, py, width, limit: room, text: line.label, colour: line.ink, ends }];
      });
      const beside = (label) => model.labelsAt !== "start" && (until < Infinity || label.px >= size.width);
      const stacked = stack(found.filter(beside), size.height, zoom);
      const others = found.filter((label) => !beside(label));
      if (!others.length) return stacked;
      if (model.labelsAt === "start") others.forEach((label) => label.ends.reverse());
      const shapes = [
        ...drawn.flatMap(along),
        ...marks().map((mark) => around(scale.x(mark.x), scale.y(mark.y), Math.sqrt(mark.size * zoom) / 2)),
      ];
      const free = others.map((label) => ({ ...label, limit: label.width + 8 }));
      return [...stacked, ...scatter(free, stacked.map((label) => boxOf(label, zoom)), shapes, size)];
    }

    // What cannot be changed in a view that is there.
    const structure = () =>
      JSON.stringify([
        size, model.xType, model.yType, model.xDomain, model.yDomain, model.xTitle, model.yTitle,
        model.xReverse,
      ]);

    // Shows a model; while Vega is at work on another view, the last one that was asked for.
    async function draw(next) {
      model = { crosses: [], share: 1, ...next };
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
      curves();
      view.data("rules", model.rules);
      view.data("marks", marks());
      view.data("crosses", model.crosses.map((cross) => ({ ...cross, py: -4 - CROSS_ROW * size.zoom * (cross.row + 0.5) })));
      view.data("labels", []);
      point(null);
      view.run();
      view.data("labels", labels()).run();
      shown = 1;
      reveal(model.share);
    }

    // Draws the curves up to a share of the axis, with their labels at their ends.
    function reveal(share) {
      if (view === null || (share >= 1 && shown >= 1)) return;
      shown = share;
      const until = share < 1 ? view.scale("x").invert(share * size.width) : Infinity;
      curves(until);
      view.data("marks", marks().filter((mark) => mark.x <= until));
      view.data("labels", labels(until)).run();
    }

    // The lines and bands up to a place on the x-axis.
    function curves(until = Infinity) {
      const cut = (shapes) => shapes.map((shape) => ({ ...shape, points: shape.points.filter(([x]) => x <= until) }));
      view.data("bands", rows(cut(model.bands), ["x", "low", "high"]));
      view.data("lines", rows(cut(model.lines), ["x", "y"]));
    }

    // What has left the chart is marked at its edge.
    function marks() {
      const [low, high] = model.yDomain;
      return model.marks.map((mark) => ({ ...mark, y: Math.min(Math.max(mark.y, low), high) }));
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
      draw, reveal, at,
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
