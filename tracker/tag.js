/* Tallystick's tag: pages that are linked to directly, clicks that are remembered, reported sales.
   No address but the tracker's and the page's own is called; nothing is evaluated; syntax of ES5. */
(function (window, document) {
  'use strict';
  var script = document.currentScript;
  if (!script || !window.fetch || !window.Promise || !window.URLSearchParams) { return; }
  var queue = (window.tallystick && window.tallystick.q) || [];
  var setting = function (name, otherwise) { return script.getAttribute('data-' + name) || otherwise; };
  var base = setting('base', script.src.split('/').slice(0, 3).join('/'));
  var program = setting('program', '');
  var cookie = setting('cookie', 'ts_clicks');
  var endpoint = setting('cookie-endpoint', '');
  var consent = setting('consent', '') === 'denied' ? false : null;
  var shape = /^[\w-]{52}$/;
  var seen = [];      /* The click ids of this page, also where no cookie may be written. */
  var counted = 0;    /* 1: this visit was counted without consent; 2: with it. */
  var settled = Promise.resolve();

  /* Global Privacy Control cannot be overruled by the page; silence counts as consent. */
  function allowed() { return navigator.globalPrivacyControl !== true && consent !== false; }

  function stored() {
    var found = document.cookie.split('; ').filter(function (pair) {
      return pair.indexOf(cookie + '=') === 0;
    })[0];
    return found ? found.slice(cookie.length + 1).split('~').filter(shape.test, shape) : [];
  }

  /* Oldest first; a click that is known keeps its place, because its time is inside its id. */
  function ids() {
    var all = stored();
    seen.forEach(function (id) { if (all.indexOf(id) < 0) { all.push(id); } });
    return allowed() ? all.slice(-Number(setting('keep', 5))) : [];
  }

  function write(value, days) {
    var domain = setting('cookie-domain', '');
    document.cookie = cookie + '=' + value + '; path=/; max-age=' + Math.round(days * 86400) +
      '; SameSite=Lax' + (location.protocol === 'https:' ? '; Secure' : '') +
      (domain ? '; domain=' + domain : '');
  }

  function remember(id) {
    if (!shape.test(id || '') || !allowed()) { return; }
    if (seen.indexOf(id) < 0) { seen.push(id); }
    var keep = function () { write(ids().join('~'), Number(setting('cookie-days', 30))); };
    if (!endpoint) { return keep(); }
    /* The shop's own server sets a cookie that no script can read, and that lives longer. */
    return fetch(endpoint, {
      method: 'POST',
      credentials: 'same-origin',
      keepalive: true,
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({click_id: id})
    }).then(function (answer) { if (!answer.ok) { keep(); } }, keep);
  }

  /* A string as body is text/plain, which needs no preflight. */
  function send(path, body) {
    return fetch(base + path, {
      method: 'POST', mode: 'cors', credentials: 'omit', keepalive: true, body: JSON.stringify(body)
    });
  }

  function land() {
    var query = new URLSearchParams(location.search);
    var parameter = setting('parameter', 'ts_click');
    var publisher = query.get('ts_pub');
    var id = query.get(parameter);
    var level = allowed() ? 2 : 1;
    var done;
    var visits = performance.getEntriesByType ? performance.getEntriesByType('navigation') : [];
    if (id) {
      done = remember(id);
    } else if (publisher && program && level > counted &&
        !(visits[0] && visits[0].type !== 'navigate' && ids().length)) {
      counted = level;
      var visit = {
        program: program,
        publisher: publisher,
        page: location.origin + location.pathname,
        referrer: document.referrer,
        framed: window.top !== window ? '1' : '0',
        cons: level > 1 && query.get('cons') !== '0' ? '1' : '0'
      };
      ['s1', 's2', 's3', 's4', 's5'].forEach(function (name) {
        if (query.get(name)) { visit[name] = query.get(name); }
      });
      done = send('/tag/click', visit)
        .then(function (answer) { return answer.ok ? answer.json() : {}; })
        .then(function (answer) { return remember(answer.click_id); })
        .catch(function () {});
    }
    if (script.hasAttribute('data-clean') && (id || publisher)) {
      [parameter, 'ts_pub', 's1', 's2', 's3', 's4', 's5', 'cons'].forEach(function (name) {
        query.delete(name);
      });
      var rest = query.toString();
      history.replaceState(history.state, '', location.pathname + (rest ? '?' + rest : '') + location.hash);
    }
    settled = Promise.resolve(done);
  }

  function call(verb, value) {
    if (verb === 'consent') {
      consent = !!value;
      if (!allowed()) {
        seen = [];
        if (stored().length) { write('', 0); }
      }
      return land();
    }
    settled.then(function () {
      if (verb === 'clicks') { return value(ids()); }
      send('/tag/conversion', Object.assign({}, value, {
        program: program, event: verb, clicks: ids().join('~')
      })).catch(function () {});
    });
  }

  function start() {
    var stub = window.__tcfapi;
    if (stub && consent === null) {
      /* Nothing is stored before the visitor has chosen; purpose 1 is to store on a device. */
      consent = false;
      stub('addEventListener', 2, function (data, ok) {
        if (!ok || (data.eventStatus !== 'tcloaded' && data.eventStatus !== 'useractioncomplete')) { return; }
        var purposes = (data.purpose && data.purpose.consents) || {};
        var vendors = (data.vendor && data.vendor.consents) || {};
        var vendor = setting('tcf-vendor', '');
        call('consent', data.gdprApplies === false || (purposes[1] && (!vendor || vendors[vendor])));
      });
    } else {
      land();
    }
    window.tallystick = call;
    queue.forEach(function (one) { call(one[0], one[1]); });
    /* <script type="application/json" data-tallystick="sale">: no script, so no policy stops it. */
    var declared = function () {
      [].forEach.call(document.querySelectorAll('script[data-tallystick]'), function (block) {
        call(block.getAttribute('data-tallystick'), JSON.parse(block.textContent));
      });
    };
    if (document.readyState === 'loading') {
      document.addEventListener('DOMContentLoaded', declared);
    } else {
      declared();
    }
  }

  if (document.prerendering) {
    document.addEventListener('prerenderingchange', start, {once: true});
  } else {
    start();
  }
})(window, document);
