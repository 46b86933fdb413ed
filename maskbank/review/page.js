'use strict';
// The page of a run. All names are set as text, never as markup: they may come from strangers.
(() => {
    const data = JSON.parse(document.getElementById('data').textContent);
    const { objects, numbers, pictures } = data;
    const length = numbers.length;
    const shown = Object.keys(pictures)
        .map(Number)
        .sort((a, b) => a - b); // positions that have a picture
    const flagged = [...data.look].sort((a, b) => a - b);
    const visible = objects.map(() => true);
    const byId = (id) => document.getElementById(id);
    const [canvas, scrub, now] = ['picture', 'scrub', 'now'].map(byId);
    let at = shown[0];
    let playing = null; // what `play` has begun; null: paused
    let turn = 0; // counts what was to be drawn, so that a slow picture does not cover a later one

    const element = (name, className = '', text = '') => {
        const made = document.createElement(name);
        made.className = className;
        made.textContent = text;
        return made;
    };
    const percent = (position) => `${(100 * position) / length}%`;
    const middle = (position) => percent(position + 0.5);
    const counted = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;
    const nearest = (position) =>
        shown.reduce((best, each) => (Math.abs(each - position) < Math.abs(best - position) ? each : best));
    const isUnsure = (object) => (position) =>
        object.state[position] !== 's' &&
        object.confidence[position] !== null &&
        object.confidence[position] < data.unsureBelow;
    const isGone = (object) => (position) => object.state[position] === 'g';

    /** The stretches [first, last] of positions where something holds. */
    const stretches = (holds) => {
        const found = [];
        for (let i = 0; i < length; i++) {
            if (!holds(i)) continue;
            if (found.length && found[found.length - 1][1] === i - 1) found[found.length - 1][1] = i;
            else found.push([i, i]);
        }
        return found;
    };

    // Masks

    /** COCO's compressed run lengths as pixels, column by column; background first. */
    const decode = (counts, size) => {
        const pixels = new Uint8Array(size[0] * size[1]);
        const runs = [];
        for (let i = 0, place = 0; i < counts.length;) {
            let value = 0;
            let more = true;
            for (let shift = 0; more; shift += 5) {
                const digit = counts.charCodeAt(i++) - 48;
                value |= (digit & 31) << shift;
                more = (digit & 32) !== 0;
                if (!more && digit & 16) value |= -1 << (shift + 5);
            }
            if (runs.length > 2) value += runs[runs.length - 2];
            runs.push(value);
            if (runs.length % 2 === 0) pixels.fill(1, place, place + value);
            place += value;
        }
        return pixels;
    };

    /** The masks of the objects `which` of a picture, filled and outlined, on a canvas of its size. */
    const drawMasks = (picture, which, opacity) => {
        const [height, width] = picture.size;
        const layer = element('canvas');
        layer.width = width;
        layer.height = height;
        const image = new ImageData(width, height);
        const words = new Uint32Array(image.data.buffer); // a pixel each: alpha, blue, green, red
        objects.forEach((object, slot) => {
            const counts = picture.masks[slot];
            if (!counts || !which[slot]) return;
            const mask = decode(counts, picture.size);
            const [red, green, blue] = [1, 3, 5].map((i) => parseInt(object.colour.slice(i, i + 2), 16));
            const colour = (blue << 16) | (green << 8) | red;
            const [line, fill] = [1, opacity].map((alpha) => (Math.round(255 * alpha) << 24) | colour);
            for (let x = 0, i = 0; x < width; x++) {
                for (let y = 0; y < height; y++, i++) {
                    if (!mask[i]) continue;
                    const inside =
                        x > 1 &&
                        y > 1 &&
                        x < width - 2 &&
                        y < height - 2 &&
                        mask[i - 1] &&
                        mask[i + 1] &&
                        mask[i - 2] &&
                        mask[i + 2] &&
                        mask[i - height] &&
                        mask[i + height] &&
                        mask[i - 2 * height] &&
                        mask[i + 2 * height];
                    words[y * width + x] = inside ? fill : line;
                }
            }
        });
        layer.getContext('2d').putImageData(image, 0, 0);
        return layer;
    };

    /** Where to look at an object closely: [x, y, width, height] around it, of the picture's shape; else all of it. */
    const around = (picture, slot) => {
        const [height, width] = picture.size;
        const counts = picture.masks[slot];
        if (!counts) return [0, 0, width, height];
        let [left, right, top, bottom] = [width, 0, height, 0];
        decode(counts, picture.size).forEach((set, i) => {
            if (!set) return;
            const [x, y] = [Math.floor(i / height), i % height];
            [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
        });
        const share = Math.min(1, Math.max(0.35, (2 * (right - left)) / width, (2 * (bottom - top)) / height));
        const [w, h] = [share * width, share * height];
        const within = (start, most) => Math.min(most, Math.max(0, start));
        return [within((left + right - w) / 2, width - w), within((top + bottom - h) / 2, height - h), w, h];
    };

    const loaded = new Map(); // the last pictures that were decoded, by position
    const load = async (position) => {
        if (!loaded.has(position)) {
            const image = new Image();
            image.src = pictures[position].image;
            loaded.set(position, image);
            if (loaded.size > 30) loaded.delete(loaded.keys().next().value);
        }
        const image = loaded.get(position);
        await image.decode();
        return image;
    };

    const paint = async () => {
        const mine = ++turn;
        const position = at;
        canvas.setAttribute('aria-busy', 'true');
        const image = await load(position);
        if (mine !== turn) return;
        const picture = pictures[position];
        if (canvas.width !== picture.size[1]) canvas.width = picture.size[1];
        if (canvas.height !== picture.size[0]) canvas.height = picture.size[0];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        if (byId('masks').checked) context.drawImage(drawMasks(picture, visible, byId('opacity').value / 100), 0, 0);
        canvas.dataset.frame = numbers[position];
        canvas.setAttribute('aria-busy', 'false');
    };

    // Going from frame to frame

    const said = (object, position) => {
        const sure = object.confidence[position];
        const number = sure === null ? '' : sure.toFixed(2);
        return { n: '–', s: 'seed', g: `gone ${number}`, v: number || 'found' }[object.state[position]].trim();
    };

    /** Shows the frame at a position, or the nearest one that has a picture. */
    const go = (position) => {
        at = nearest(Math.min(length - 1, Math.max(0, position)));
        scrub.value = at;
        const text = `frame ${numbers[at]}`;
        scrub.setAttribute('aria-valuetext', text);
        now.setAttribute('aria-live', playing ? 'off' : 'polite');
        now.textContent = data.jobUrl ? text : `${text} · ${data.names[at]}`; // CVAT shows its own names
        byId('timeline').style.setProperty('--x', middle(at));
        objects.forEach((object, slot) => {
            byId(`value-${slot}`).textContent = said(object, at);
            for (const { kind, write } of measures) {
                const value = object[kind][at];
                byId(`${kind}-${slot}`).textContent = value === null ? '–' : write(value);
            }
        });
        for (const tile of document.querySelectorAll('.sheet button')) {
            tile.classList.toggle('here', Number(tile.dataset.position) === at);
        }
        if (data.jobUrl) byId('link').href = `${data.jobUrl}?frame=${numbers[at]}`;
        return paint();
    };

    /** Goes so many pictures on or back. */
    const step = (by) => go(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(at) + by))]);

    const pause = () => {
        clearTimeout(playing?.timer);
        playing = null;
        byId('play').textContent = 'Play';
    };

    const play = () => {
        if (at === shown[shown.length - 1]) go(shown[0]);
        byId('play').textContent = 'Pause';
        const run = { timer: 0, due: performance.now() };
        playing = run;
        const tick = () => {
            const next = shown[shown.indexOf(at) + 1];
            if (next === undefined) return pause();
            const lasts = (1000 * (next - at)) / (data.fps * byId('speed').value); // a skipped frame takes its time, too
            run.due = Math.max(run.due + lasts, performance.now()); // the time of painting is part of it
            run.timer = setTimeout(async () => {
                await go(next);
                if (playing === run) tick(); // not when somebody paused meanwhile
            }, run.due - performance.now());
        };
        tick();
    };
    const toggle = () => (playing ? pause() : play());

    const jump = (position) => {
        pause();
        go(position);
    };
    const flag = (direction) => {
        const further = flagged.filter((each) => (each - at) * direction > 0);
        if (further.length) jump(direction > 0 ? further[0] : further[further.length - 1]);
    };

    // The parts of the page

    const larger = (one, other) => Math.max(one, other);
    const measures = [
        { kind: 'confidence', write: (value) => value.toFixed(2), top: () => 1 },
        {
            kind: 'area',
            write: (value) => `${(100 * value).toFixed(1)} %`,
            top: (values) => values.reduce(larger, 0) || 1,
        },
        { kind: 'overlap', write: (value) => value.toFixed(2), top: () => 1 },
    ];

    const swatch = (object) => {
        const made = element('span', 'swatch');
        made.style.background = object.colour;
        return made;
    };

    /** A lane with an object's values: each frame has a step of its own, so that a single frame is seen, too. */
    const lane = (object, slot, { kind, top }) => {
        const row = element('div', 'lane');
        const name = element('span', 'name');
        const title = element('span', 'title', object.name);
        title.title = object.name;
        name.append(swatch(object), title);
        const value = element('span', 'value');
        value.id = `${kind}-${slot}`;
        const plot = element('div', 'plot');
        const known = object[kind].filter((each) => each !== null);
        const highest = top(known);
        let line = '';
        let area = '';
        object[kind].forEach((each, i) => {
            if (each === null) return;
            const y = (96 - (92 * each) / highest).toFixed(2);
            line += object[kind][i - 1] == null ? `M${i} ${y}H${i + 1}` : `V${y}H${i + 1}`;
            area += `M${i} 100V${y}H${i + 1}V100Z`;
        });
        const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
        svg.setAttribute('viewBox', `0 0 ${length} 100`);
        svg.setAttribute('preserveAspectRatio', 'none');
        const draw = (className, d) => {
            const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
            path.setAttribute('class', className);
            path.setAttribute('d', d);
            svg.append(path);
            return path;
        };
        draw('fill', area).style.fill = object.colour;
        if (kind === 'confidence') draw('threshold', `M0 ${96 - 92 * data.unsureBelow}H${length}`);
        draw('line', line);
        plot.append(svg);
        const mark = (className, [first, last]) => {
            const made = element('i', className);
            made.style.left = percent(first);
            made.style.width = percent(last + 1 - first);
            plot.append(made);
        };
        for (const stretch of stretches(isGone(object))) mark('gone', stretch);
        if (kind === 'confidence') {
            for (const stretch of stretches(isUnsure(object))) mark('unsure', stretch);
            for (let i = 0; i < length; i++) {
                if (object.state[i] !== 's') continue;
                const made = element('i', 'seed');
                made.style.left = middle(i);
                plot.append(made);
            }
            for (const { position, slots } of data.suggested) {
                if (!slots.includes(slot)) continue;
                const made = element('i', 'suggested');
                made.style.left = middle(position);
                plot.append(made);
            }
            if (!known.length) plot.append(element('span', 'plot-empty', 'No confidence was recorded.'));
        }
        plot.append(element('span', 'cursor'));
        plot.setAttribute('role', 'img');
        plot.setAttribute('aria-label', `${kind} of ${object.name} over ${counted(length, 'frame')}`);
        row.append(name, plot, value);
        return row;
    };

    const objectEntry = (object, slot) => {
        const entry = element('li');
        const label = element('label');
        const box = element('input');
        box.type = 'checkbox';
        box.checked = true;
        box.id = `object-${slot}`;
        box.addEventListener('change', () => {
            visible[slot] = box.checked;
            for (const { kind } of measures) byId(kind).children[slot].classList.toggle('off', !box.checked);
            paint();
        });
        const value = element('span', 'value');
        value.id = `value-${slot}`;
        const title = element('span', 'title', object.name);
        title.title = object.name;
        label.append(box, swatch(object), title, value);
        entry.append(label);
        for (const [what, found] of [
            ['unsure', stretches(isUnsure(object))],
            ['gone', stretches(isGone(object))],
        ]) {
            if (!found.length) continue;
            const where = element('div', 'where', `${what} on `);
            for (const [first, last] of found.slice(0, 12)) {
                const text = first === last ? `${numbers[first]}` : `${numbers[first]}–${numbers[last]}`;
                const button = element('button', '', text);
                button.type = 'button';
                button.title = `Go to frame ${numbers[first]}`;
                button.addEventListener('click', () => jump(first));
                where.append(button, ' ');
            }
            if (found.length > 12) where.append(`and ${found.length - 12} more`);
            entry.append(where);
        }
        return entry;
    };

    const tile = (position, rank) => {
        const made = element('button');
        made.type = 'button';
        made.dataset.position = position;
        const picture = pictures[position];
        const small = element('canvas');
        small.width = 320;
        small.height = Math.round((320 * picture.size[0]) / picture.size[1]);
        const [lowest] = objects
            .filter((object) => object.state[position] !== 's' && object.confidence[position] !== null)
            .sort((one, other) => one.confidence[position] - other.confidence[position]);
        const caption = `frame ${numbers[position]}` + (lowest ? ` · ${lowest.name} ${said(lowest, position)}` : '');
        made.append(small, element('small', '', rank ? `${rank}. ${caption}` : caption));
        made.title = caption;
        made.addEventListener('click', () => {
            jump(position);
            byId('player').scrollIntoView({ block: 'nearest' });
        });
        load(position).then((image) => {
            const context = small.getContext('2d');
            const part = around(picture, rank ? objects.indexOf(lowest) : -1);
            for (const layer of [
                image,
                drawMasks(
                    picture,
                    objects.map(() => true),
                    0.4,
                ),
            ]) {
                context.drawImage(layer, ...part, 0, 0, small.width, small.height);
            }
        });
        return made;
    };

    const ruler = () => {
        const plot = byId('ruler').querySelector('.plot');
        const every = [1, 2, 5].flatMap((digit) => [1, 10, 100, 1e3, 1e4, 1e5].map((power) => digit * power));
        const apart = every.sort((one, other) => one - other).find((each) => length / each <= 12);
        for (let position = 0; position < length; position += apart) {
            const tick = element('i', 'tick', numbers[position]);
            tick.style.left = middle(position);
            plot.append(tick);
        }
        plot.append(element('span', 'cursor')); // below the flags
        data.look.forEach((position, i) => {
            const button = element('button', 'flag', `${i + 1}`);
            button.type = 'button';
            button.title = `Frame ${numbers[position]}`;
            button.setAttribute('aria-label', `Go to frame ${numbers[position]}, number ${i + 1} of the least sure`);
            button.style.left = middle(position);
            button.addEventListener('click', () => jump(position));
            plot.append(button);
        });
    };

    /** Lets a person press anywhere in the timeline, and drag. */
    const pointing = (plot) => {
        const point = (event) => {
            const { left, width } = plot.getBoundingClientRect();
            jump(Math.floor(((event.clientX - left) / width) * length));
        };
        plot.addEventListener('pointerdown', (event) => {
            if (event.button || event.target.closest('button')) return;
            plot.setPointerCapture(event.pointerId);
            point(event);
        });
        plot.addEventListener('pointermove', (event) => {
            if (plot.hasPointerCapture(event.pointerId)) point(event);
        });
    };

    const facts = () => {
        const skipped = length - shown.length;
        const parts = [counted(length, 'frame'), counted(objects.length, 'object')];
        if (skipped) {
            parts.push(
                `pictures of ${shown.length} of the ${length} frames are in this page, to keep it small: the player goes from ` +
                    'one to the next; the curves are of all frames',
            );
        }
        return `${parts.join(' · ')}.`;
    };

    byId('facts').textContent = facts();
    byId('notice').textContent = data.notice ?? '';
    byId('threshold').textContent = data.unsureBelow;
    scrub.max = length - 1;
    scrub.addEventListener('input', () => {
        const wanted = Number(scrub.value);
        // Towards the next picture even where the nearest one is where we are: arrow keys must not get stuck.
        const on = Math.sign(wanted - at);
        jump(nearest(wanted) === at && on ? (shown[shown.indexOf(at) + on] ?? at) : wanted);
    });
    byId('previous').addEventListener('click', () => {
        pause();
        step(-1);
    });
    byId('next').addEventListener('click', () => {
        pause();
        step(1);
    });
    byId('play').addEventListener('click', toggle);
    byId('opacity').addEventListener('input', paint);
    byId('masks').addEventListener('change', paint);
    byId('link').hidden = !data.jobUrl;
    objects.forEach((object, slot) => {
        byId('objects').append(objectEntry(object, slot));
        for (const measure of measures) byId(measure.kind).append(lane(object, slot, measure));
    });
    ruler();
    document.querySelectorAll('.plot').forEach(pointing);
    if (!data.look.length)
        byId('look-note').textContent = 'No confidence was recorded, so nobody knows which these are.';
    else byId('look-note').append(` ${data.next}`);
    data.look.forEach((position, i) => byId('look').append(tile(position, i + 1)));
    data.even.forEach((position) => byId('even').append(tile(position)));

    const keys = {
        ' ': toggle,
        ArrowLeft: (event) => {
            pause();
            step(event.shiftKey ? -10 : -1);
        },
        ArrowRight: (event) => {
            pause();
            step(event.shiftKey ? 10 : 1);
        },
        Home: () => jump(0),
        End: () => jump(length - 1),
        n: () => flag(1),
        p: () => flag(-1),
        m: () => byId('masks').click(),
    };
    document.addEventListener('keydown', (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        const focused = event.target;
        const ownKeys = focused.matches('select, input[type=range]') && /^(Arrow|Home|End)/.test(event.key);
        const presses = event.key === ' ' && focused.matches('button, input[type=checkbox], summary, select, a');
        if (ownKeys || presses) return;
        const action =
            keys[event.key] ??
            (/^[1-9]$/.test(event.key) && byId(`object-${event.key - 1}`)
                ? () => byId(`object-${event.key - 1}`).click()
                : undefined);
        if (!action) return;
        event.preventDefault();
        action(event);
    });
    go(shown[0]);
})();
