// The state of a page's parts in its address: #key&name=value&name=value. Every state has a link.
"use strict";
window.pageState = (() => {
  const listeners = new Map();

  function decode(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return ""; // half a character: somebody cut the address
    }
  }

  // Whose state the address holds, and its values: texts by their names.
  function read() {
    const [key, ...pairs] = location.hash.slice(1).split("&");
    const values = Object.create(null);
    for (const pair of pairs) {
      const at = pair.indexOf("=");
      if (at > 0) values[decode(pair.slice(0, at))] = decode(pair.slice(at + 1));
    }
    return { key: decode(key), values };
  }

  // The address of a part's state; values that are undefined, null or "" are left out.
  function hash(key, values) {
    const pairs = Object.entries(values)
      .filter(([, value]) => value !== undefined && value !== null && value !== "")
      .map(([name, value]) => `&${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
    return `#${encodeURIComponent(key)}${pairs.join("")}`;
  }

  // Puts a part's state into the address, without a step in the history.
  function write(key, values) {
    history.replaceState(null, "", hash(key, values));
  }

  function notify() {
    const { key, values } = read();
    if (listeners.has(key)) listeners.get(key)(values);
    // The browser looks for an element of this whole name.
    if (location.hash.includes("&")) document.getElementById(key)?.scrollIntoView();
  }

  // Calls a function with a part's values when the address is its own: now, and when it changes.
  function listen(key, act) {
    listeners.set(key, act);
    const now = read();
    if (now.key === key) act(now.values);
  }

  window.addEventListener("hashchange", notify);
  return { read, write, hash, listen };
})();
