import { expect, test } from 'vitest';
import type { Drawn } from '../src/ts/cvat-types';
import { Made } from '../src/ts/made';
import { MemoryStorage } from './cvat';

const BOX: Drawn = {
    ...{ frame: 4, type: 'rectangle', points: [10, 20, 30.123, 40], rotation: 0, occluded: false, outside: false },
    ...{ z_order: 0, attributes: [{ spec_id: 22, value: 'asleep' }] },
};

const TRACK = { label_id: 1, group: 0, source: 'semi-auto', elements: [], frame: 0, attributes: [] };
const NOTHING = { shapes: [], tags: [], tracks: [] };

/** What a page that is loaded anew knows of a job. */
function known(storage: MemoryStorage, job: number): Made {
    const made = new Made(() => storage);
    made.open(job);
    return made;
}

function boxes(count: number): Drawn[] {
    return Array.from({ length: count }, (_, frame) => ({ ...BOX, frame, attributes: [] }));
}

test('a page that is loaded anew knows what was made in a job, as the server rounds it', () => {
    const storage = new MemoryStorage();
    const made = known(storage, 7);
    made.add(BOX);
    expect(made.save(NOTHING)).toBe(true);
    expect(known(storage, 7).has({ ...BOX, points: [10, 20, 30.12, 40] })).toBe(true);
    expect(known(storage, 8).has(BOX)).toBe(false);
});

test.each([
    ...[{ frame: 5 }, { type: 'ellipse' }, { points: [10, 20, 30.123, 41] }, { points: [20, 10, 30.123, 40] }],
    ...[{ rotation: 90 }, { occluded: true }, { outside: true }, { z_order: 1 }],
])('what a person changes is not known: %j', (change) => {
    const made = known(new MemoryStorage(), 7);
    made.add(BOX);
    expect(made.has(BOX)).toBe(true);
    expect(made.has({ ...BOX, ...change })).toBe(false);
});

test('an attribute that a person changes', () => {
    const storage = new MemoryStorage();
    const made = known(storage, 7);
    made.add(BOX);
    made.save(NOTHING);
    const after = known(storage, 7);
    expect(after.isChanged(BOX, { spec_id: 22, value: 'asleep' })).toBe(false);
    expect(after.isChanged(BOX, { spec_id: 22, value: 'awake' })).toBe(true);
    expect(after.isChanged({ ...BOX, frame: 5 }, { spec_id: 22, value: 'awake' })).toBe(false); // of something else
});

test('what another tab adds is known from the next run on', () => {
    const storage = new MemoryStorage();
    const [one, other] = [known(storage, 7), known(storage, 7)];
    one.add(BOX);
    one.save(NOTHING);
    other.open(7);
    other.add({ ...BOX, frame: 5 });
    other.save({ ...NOTHING, tracks: [{ ...TRACK, shapes: [BOX] }] });
    const after = known(storage, 7);
    expect([4, 5, 6].map((frame) => after.has({ ...BOX, frame }))).toEqual([true, true, false]);
});

test('what another tab adds while a run goes on stays known', () => {
    const storage = new MemoryStorage();
    const [one, other] = [known(storage, 7), known(storage, 7)];
    one.add(BOX);
    one.save(NOTHING);
    other.add({ ...BOX, frame: 5 });
    other.save(NOTHING);
    const after = known(storage, 7);
    expect([4, 5].map((frame) => after.has({ ...BOX, frame }))).toEqual([true, true]);
});

test('an attribute that an earlier run gave is a change, too', () => {
    const made = known(new MemoryStorage(), 7);
    made.add(BOX);
    made.add({ ...BOX, attributes: [{ spec_id: 22, value: 'awake' }] });
    expect(made.isChanged(BOX, { spec_id: 22, value: 'asleep' })).toBe(true);
    expect(made.isChanged(BOX, { spec_id: 22, value: 'awake' })).toBe(false);
});

test('thousands are told apart', () => {
    const storage = new MemoryStorage();
    const made = known(storage, 7);
    boxes(20_000).forEach((box) => made.add(box));
    made.save(NOTHING);
    expect(Object.keys(JSON.parse(storage.getItem('maskbank.made.7')!).made)).toHaveLength(20_000);
});

test('jobs that were used longest ago give room; what others keep there stays', () => {
    const storage = new MemoryStorage();
    storage.setItem('token', 'secret');
    for (const [job, used] of [
        [1, 300],
        [2, 100],
        [3, 200],
    ]) {
        const kept = known(storage, job!);
        boxes(25_000).forEach((box) => kept.add(box));
        kept.save(NOTHING);
        const text = storage.getItem(`maskbank.made.${job}`)!;
        storage.setItem(`maskbank.made.${job}`, text.replace(/"used":\d+/, `"used":${used}`));
    }
    const made = known(storage, 7);
    boxes(20_000).forEach((box) => made.add(box));
    expect(made.save(NOTHING)).toBe(true);
    const jobs = [1, 2, 3, 7].filter((job) => storage.getItem(`maskbank.made.${job}`));
    expect(jobs).toEqual([1, 3, 7]);
    expect(storage.getItem('token')).toBe('secret');
});

test('where others need the room, old jobs give it; where that does not help, they stay', () => {
    const storage = new MemoryStorage(2000);
    const old = known(storage, 1);
    boxes(40).forEach((box) => old.add(box));
    expect(old.save(NOTHING)).toBe(true);
    storage.setItem('theirs', 'x'.repeat(1000));
    const made = known(storage, 7);
    boxes(30).forEach((box) => made.add(box));
    expect(made.save(NOTHING)).toBe(true);
    expect(storage.getItem('maskbank.made.1')).toBeNull();

    const larger = known(storage, 8);
    boxes(80).forEach((box) => larger.add(box));
    expect(larger.save(NOTHING)).toBe(false);
    expect(storage.getItem('maskbank.made.7')).not.toBeNull();
    expect(storage.getItem('theirs')).toHaveLength(1000);
});

test('what was not in the job any more when a run began is kept while there is room: it may be undone and saved', () => {
    const storage = new MemoryStorage();
    const first = known(storage, 7);
    boxes(5).forEach((box) => first.add(box));
    first.save(NOTHING);
    first.open(7); // the next run
    first.add({ ...BOX, frame: 9 });
    first.save({ ...NOTHING, tracks: [{ ...TRACK, shapes: boxes(5).slice(3) }] });
    expect(boxes(5).map((box) => first.has(box))).toEqual([true, true, true, true, true]); // it may be undone
    const after = known(storage, 7);
    expect(boxes(5).map((box) => after.has(box))).toEqual([true, true, true, true, true]);
    expect(after.has({ ...BOX, frame: 9 })).toBe(true);
});

test('without room the page knows it all the same', () => {
    const made = known(new MemoryStorage(100), 7);
    boxes(20).forEach((box) => made.add(box));
    expect(made.save(NOTHING)).toBe(false);
    expect(made.has({ ...BOX, frame: 19 })).toBe(true);
});

test.each(['no JSON', '5', '"text"', '{"used": 1}', '[]', '{"made": null}', '{"made": {"x": 5}}'])(
    '%s is not of this plugin',
    (text) => {
        const storage = new MemoryStorage();
        storage.setItem('maskbank.made.7', text);
        storage.setItem('maskbank.made.6', text);
        const made = known(storage, 7);
        made.add(BOX);
        expect(made.save(NOTHING)).toBe(true);
        expect(known(storage, 7).has(BOX)).toBe(true);
    },
);
