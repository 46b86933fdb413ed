import { beforeEach, describe, expect, test } from 'vitest';
import { AITracker } from '../src/ts/action';
import type { Shape } from '../src/ts/cvat-types';
import { coreOf, MemoryStorage, runAction, StoredJob, withSentence } from './cvat';
import { MASKBANK, screenOf, Server } from './server';

const AROUND = { 'Only up to the outlines around this frame': 'true' };
const LAST = 59;

let job: StoredJob;
let server: Server;
let action: AITracker;
let notices: string[];

beforeEach(async () => {
    job = new StoredJob(Array.from({ length: LAST + 1 }, (_, frame) => frame));
    server = new Server();
    notices = [];
    const storage = new MemoryStorage();
    action = new AITracker(coreOf([MASKBANK], server.call), screenOf(job, notices), () => storage);
});

async function run(frame: number, options: Record<string, string | number> = {}): Promise<void> {
    const single = { 'Polygons, boxes and ellipses become tracks': 'false' };
    await withSentence(runAction(action, job, frame, { 'Target frame': LAST, ...single, ...options }), notices);
}

/** A mask that is full, of so many columns, as the tracker finds koi of a group on a frame. */
function koi(group: number, frame: number, { right = 0, columns = 20 } = {}): Pick<Shape, 'frame' | 'type' | 'points'> {
    const [left, top] = [10 + frame + right, 50 * group];
    return { frame, type: 'mask', points: [0, columns * 10, left, top, left + columns - 1, top + 9] };
}

async function trackTwo(): Promise<void> {
    [1, 2].forEach((group) => job.draw({ ...koi(group, 0), group }));
    await run(0);
}

const on = (frame: number): Shape[] => job.shapes.filter((shape) => shape.frame === frame);
const automatic = (frame: number, group: number): Shape =>
    on(frame).find((shape) => shape.source === 'auto' && shape.group === group)!;
const remove = (shape: Shape): void =>
    job.commit({ shapes: [], tags: [], tracks: [] }, { shapes: [shape], tags: [], tracks: [] });
/** The groups of the shapes on a frame. */
const groupsOn = (frame: number): number[] =>
    on(frame)
        .map(({ group }) => group)
        .sort();

const FRAMES = [4, 5, 6, LAST];
const CLEAR = [
    [1, 2],
    [1, 2],
    [1, 2],
    [1, 2],
];
const pointsOf = (group: number, frame: number): unknown[] =>
    on(frame)
        .filter((shape) => shape.group === group)
        .map(({ points }) => points);
const seeded = (): number[] => server.requests.filter(({ shapes }) => shapes).map(({ frame }) => frame);
const stays = (shape: Shape): void => expect(job.shapes).toContainEqual(shape);
const sources = (frame: number): string[] => on(frame).map(({ source }) => source);

/** Draws over a shape, and puts both into a group where G is to be pressed. */
function drawOver(
    covered: Shape,
    drawn: Partial<Shape> & Pick<Shape, 'frame' | 'type' | 'points'>,
    isG = false,
): Shape {
    const shape = job.draw(drawn);
    if (isG) {
        job.group(shape, covered);
    }
    return shape;
}

describe.each([
    ['without a group', false],
    ['grouped with it', true],
])('a new mask over an automatic one of group 1, on frame 5, %s', (_, isG) => {
    let drawn: Shape;
    let covered: Shape;

    beforeEach(async () => {
        await trackTwo();
        covered = automatic(5, 1);
        drawn = drawOver(covered, { ...koi(1, 5, { right: 2 }), occluded: true, z_order: 3 }, isG);
        server.requests.length = 0;
    });

    const isOfKoi1 = (): void => {
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
        const { clientID: _, ...rest } = drawn;
        expect(on(5).filter(({ group }) => group === 1)).toEqual([{ ...rest, group: 1, clientID: expect.any(Number) }]);
        expect(job.shapes).not.toContainEqual(covered);
        const deleted = job.commits.at(-1)!.deleted.shapes.map(({ clientID }) => clientID);
        expect(new Set(deleted).size).toBe(deleted.length);
        expect(pointsOf(1, 6)).toEqual([koi(1, 6, { right: 2 }).points]);
        expect(pointsOf(1, LAST)).toEqual([koi(1, LAST, { right: 2 }).points]);
        expect(notices).toEqual([]);
    };

    test('a run from it goes on from it, in the place of what the earlier run made', async () => {
        await run(5);
        isOfKoi1();
        expect(pointsOf(1, 4)).toEqual([koi(1, 4).points]);
        expect(job.commits).toHaveLength(2);
    });

    test('a run around it tracks its object anew, and no other one', async () => {
        const others = job.shapes.filter(({ group }) => group === 2);
        await run(5, AROUND);
        isOfKoi1();
        expect(new Set(seeded())).toEqual(new Set([0, 5]));
        expect(pointsOf(1, 4)).toEqual([koi(1, 4, { right: 2 }).points]);
        expect(job.shapes.filter(({ group }) => group === 2)).toEqual(others);
        expect(job.commits).toHaveLength(2);
    });

    test('a run from the first frame learns it', async () => {
        await run(0);
        isOfKoi1();
        expect(seeded()).toContain(5);
        expect(job.commits).toHaveLength(2);
        await run(0);
        isOfKoi1(); // it is clear from then on
    });

    test('a run from behind it learns it, and the automatic one goes', async () => {
        await run(40);
        expect(seeded()).toContain(5);
        expect(groupsOn(5)).toEqual([1, 2]);
        expect(pointsOf(1, 5)).toEqual([drawn.points]);
        expect(pointsOf(1, 6)).toEqual([koi(1, 6).points]); // not on the way
    });

    test('without seeds, a run from behind it leaves all there as it is', async () => {
        const before = on(5);
        await run(40, { 'Use other annotated frames as seeds': 'false' });
        expect(on(5)).toEqual(before);
    });

    test('without seeds, a run through it draws nothing there', async () => {
        await run(0, { 'Use other annotated frames as seeds': 'false' });
        expect(seeded()).toEqual([0]);
        expect(groupsOn(5)).toEqual([1, 2]);
        expect(pointsOf(1, 5)).toEqual([drawn.points]);
        expect(pointsOf(1, 6)).toEqual([koi(1, 6).points]);
    });

    test('a run of the other object leaves it as it is', async () => {
        const before = on(5).filter(({ group }) => group !== 2);
        action.applyFilter = ({ collection: { shapes } }) => ({
            shapes: shapes.filter(({ frame, group }) => frame === 5 && group === 2),
            tags: [],
            tracks: [],
        });
        await run(5);
        expect(on(5).filter(({ group }) => group !== 2)).toEqual(before);
    });

    test.each([
        ['discarded', 'keep nothing', 8],
        ['cancelled at once', 'keep what was done', -1],
    ])('a run that is %s leaves it as it is', async (_, choice, last) => {
        const before = structuredClone(job.shapes);
        const cancelled = (): boolean => last < 0 || server.frames('track').includes(last);
        const parameters = { 'Target frame': LAST, 'On cancel': choice };
        await runAction(action, job, 5, parameters, () => {}, cancelled);
        expect(job.shapes).toEqual(before);
    });
});

describe('what persons draw over automatic shapes', () => {
    test('of `maskbank job`, on every frame of some, both koi', async () => {
        for (let frame = 0; frame <= LAST; frame++) {
            [1, 2].forEach((group) => job.draw({ ...koi(group, frame), group, source: frame ? 'auto' : 'manual' }));
        }
        [5, 6, 7].forEach((frame) =>
            [1, 2].forEach((group) => drawOver(automatic(frame, group), koi(group, frame, { right: 2 }), frame > 5)),
        );
        await run(7, AROUND);
        expect([...FRAMES, 7].map(groupsOn)).toEqual([...CLEAR, [1, 2]]);
        [5, 6, 7].forEach((frame) => expect(sources(frame)).toEqual(['manual', 'manual']));
        [1, 2].forEach((group) => expect(pointsOf(group, 7)).toEqual([koi(group, 7, { right: 2 }).points]));
        expect(notices).toEqual([]);
    });

    test('boxes over masks, and masks over boxes', async () => {
        const sliver = (x: number): number[] => [x, 100, x + 4, 100, x + 20, 120, x + 16, 120];
        [1, 2].forEach((group) => job.draw({ ...koi(group, 0), group }));
        job.draw({ frame: 0, type: 'rectangle', points: [200, 100, 220, 110], group: 3 });
        job.draw({ frame: 0, type: 'polygon', points: sliver(300), group: 4 });
        await run(0);
        job.draw({ frame: 5, type: 'rectangle', points: [15, 50, 35, 61] });
        job.draw({ frame: 5, type: 'mask', points: [0, 200, 206, 100, 225, 109] });
        job.draw({ frame: 5, type: 'rectangle', points: [305, 100, 325, 120] });
        await run(5);
        expect(groupsOn(5)).toEqual([1, 2, 3, 4]);
        expect(groupsOn(6)).toEqual([1, 2, 3, 4]);
        expect(
            on(5)
                .map(({ group, type }) => `${group} ${type}`)
                .sort(),
        ).toEqual(['1 rectangle', '2 mask', '3 mask', '4 rectangle']);
        expect(notices).toEqual([]);
    });

    test('become tracks with what is of their object', async () => {
        const box = (group: number, frame: number): number[] => [frame, 50 * group, frame + 20, 50 * group + 20];
        [1, 2].forEach((group) => job.draw({ frame: 0, type: 'rectangle', points: box(group, 0), group }));
        await run(0);
        job.draw({ frame: 5, type: 'rectangle', points: box(1, 7) });
        await run(5, { 'Polygons, boxes and ellipses become tracks': 'true' });
        expect(job.shapes).toEqual([]);
        expect(job.tracks.map(({ group, shapes }) => [group, shapes.length]).sort()).toEqual([
            [1, LAST + 1],
            [2, LAST + 1],
        ]);
        const track = job.tracks.find(({ group }) => group === 1)!;
        expect(track.shapes.find(({ frame }) => frame === 5)?.points).toEqual(box(1, 7));
    });

    test('badly, but grouped with it', async () => {
        await trackTwo();
        const drawn = drawOver(automatic(5, 1), koi(1, 5, { right: 13 }), true);
        await run(5);
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
        expect(pointsOf(1, 5)).toEqual([drawn.points]);
    });

    test('grouped with it, on the first frame and on the last one', async () => {
        job.numbers.forEach((frame) => job.draw({ ...koi(1, frame), group: 1, source: 'auto' }));
        job.draw({ ...koi(2, 0), group: 2 });
        const ends = [koi(1, 0, { right: 2 }), koi(1, LAST, { right: 3 })];
        ends.forEach((drawn) => drawOver(automatic(drawn.frame, 1), drawn, true));
        await run(0, AROUND);
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
        ends.forEach(({ frame, points }) => expect(pointsOf(1, frame)).toEqual([points]));
    });

    test('grouped with it, where another object that has its shape there is near', async () => {
        [1, 2].forEach((group) => job.draw({ ...koi(1, 0, { right: 4 * group }), group }));
        await run(0);
        drawOver(automatic(5, 1), koi(1, 5, { right: 1 }), true);
        await run(5, AROUND);
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
    });

    test('and are alone with it in their group: all that there is of the label', async () => {
        drawOver(job.draw({ ...koi(1, 5), source: 'auto' }), koi(1, 5), true);
        await run(5, AROUND);
        expect(on(LAST)).toHaveLength(1);
        expect(notices).toEqual([]);
    });

    test('where no object has a group: after G neither it nor the rest has one', async () => {
        job.draw(koi(1, 0));
        await run(0);
        drawOver(on(5)[0]!, koi(1, 5, { right: 2 }), true);
        await run(5, AROUND);
        expect(FRAMES.map(groupsOn)).toEqual([[0], [0], [0], [0]]);
        expect(pointsOf(0, LAST)).toEqual([koi(1, LAST, { right: 2 }).points]);
    });

    test('and taken out of all groups with it', async () => {
        await trackTwo();
        const [drawn, covered] = [job.draw(koi(1, 5, { right: 2 })), automatic(5, 1)];
        [drawn, covered].forEach((shape) => (shape.group = 0));
        await run(5, AROUND);
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
    });
});

describe.each([
    ['before it goes on', [5]],
    ['where it ends', Array.from({ length: LAST - 4 }, (_, index) => 5 + index)],
])('a new mask where an object of a group has no shape, %s', (_, lost) => {
    beforeEach(async () => {
        await trackTwo();
        job.shapes.filter(({ frame, group }) => lost.includes(frame) && group === 1).forEach(remove);
        job.draw(koi(1, 5, { right: 2 }));
    });

    test.each([
        [5, {}],
        [5, AROUND],
        [0, {}],
    ])('is of that object, run from frame %d %j', async (frame, options) => {
        await run(frame, options);
        expect(FRAMES.map(groupsOn)).toEqual(CLEAR);
        [5, LAST].forEach((each) => expect(pointsOf(1, each)).toEqual([koi(1, each, { right: 2 }).points]));
        expect(notices).toEqual([expect.stringContaining('counts as that one (frame 5: group 1)')]);
        expect(job.commits).toHaveLength(2);
    });
});

test('a new mask before the first automatic one of an object is of that', async () => {
    await trackTwo();
    job.shapes.filter(({ frame, group }) => frame <= 5 && group === 1).forEach(remove);
    job.draw(koi(1, 5, { right: 2 }));
    await run(5);
    expect(FRAMES.map(groupsOn)).toEqual([[2], [1, 2], [1, 2], [1, 2]]);
});

test('without any groups, a new mask in the place of one that was deleted is of the object, as ever', async () => {
    job.draw(koi(1, 0));
    await run(0);
    remove(on(5)[0]!);
    job.draw(koi(1, 5, { right: 2 }));
    await run(5, AROUND);
    expect(FRAMES.map(groupsOn)).toEqual([[0], [0], [0], [0]]);
    expect(pointsOf(0, LAST)).toEqual([koi(1, LAST, { right: 2 }).points]);
    expect(notices).toEqual([]);
});

describe('what is unclear stays', () => {
    const SAID = 'has no group, but what it lies on has';

    beforeEach(trackTwo);

    test('another koi that touches an automatic one', async () => {
        const [drawn, covered] = [job.draw(koi(1, 5, { right: 15 })), automatic(5, 1)];
        await expect(run(5, AROUND)).rejects.toThrow(SAID);
        await run(5);
        [drawn, covered].forEach((shape) => expect(pointsOf(shape.group, 5)).toEqual([shape.points]));
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [0, 1, 2],
            [0, 1, 2],
            [0, 1, 2],
        ]);
        expect(notices).toEqual([expect.stringContaining('on frame 5 has no group')]);
    });

    test('what covers two', async () => {
        const beside = job.draw({ ...koi(1, 5, { right: 3 }), source: 'auto', group: 3 });
        const [drawn, covered] = [job.draw(koi(1, 5, { right: 1 })), automatic(5, 1)];
        await expect(run(5, AROUND)).rejects.toThrow(SAID);
        [drawn, covered, beside].forEach(stays);
    });

    test('an object that is drawn twice', async () => {
        const both = [2, 1].map((right) => job.draw(koi(1, 5, { right })));
        await expect(run(5, AROUND)).rejects.toThrow(SAID);
        await run(0);
        both.forEach(stays);
        expect(notices).toEqual([expect.stringContaining('on frame 5 has no group')]);
    });

    test('what lies on a person’s work: an automatic shape that was marked as occluded, or moved', async () => {
        for (const changes of [{ occluded: true }, koi(1, 5, { right: 1 })]) {
            job.edit(automatic(5, 1) ?? on(5).find(({ group }) => group === 1)!, changes);
            const [drawn, theirs] = [job.draw(koi(1, 5, { right: 2 })), on(5).find(({ group }) => group === 1)!];
            const before = structuredClone([drawn, theirs]);
            await expect(run(5, AROUND)).rejects.toThrow('It is unclear which object you outlined on frame 5');
            await run(0);
            before.forEach(stays);
        }
    });

    test.each([0, 5])('what has a person’s outline of the object beside it, run from frame %d', async (frame) => {
        const drawn = [job.draw({ ...koi(1, 5, { right: 100 }), group: 1 }), job.draw(koi(1, 5, { right: 2 }))];
        await expect(run(5, AROUND)).rejects.toThrow('there are several shapes with the same label and group');
        await run(frame);
        drawn.forEach(stays);
    });

    test('what has a group of its own', async () => {
        const [drawn, covered] = [job.draw({ ...koi(1, 5), group: 7 }), automatic(5, 1)];
        await run(5);
        stays(drawn);
        expect(pointsOf(1, 5)).toEqual([covered.points]);
    });

    test('which of two that are grouped, if only one lacks a shape there', async () => {
        const beside = job.draw({ ...koi(1, 5, { right: 1 }), source: 'auto', group: 3 });
        const drawn = [automatic(5, 1), beside].map((covered) => drawOver(covered, koi(1, 5), true));
        const before = structuredClone([...drawn, beside]);
        await run(0);
        before.forEach(stays);
        expect(notices).toEqual([expect.stringContaining('It is unclear which object you outlined on frame 5')]);
    });

    test.each([
        ['another shape', () => automatic(5, 2)],
        ['a track', () => job.drawTrack('rectangle', [{ frame: 5, points: [300, 300, 310, 310] }])],
    ])('what is grouped with %s as well', async (_, other) => {
        const drawn = job.draw(koi(1, 5));
        job.group(drawn, automatic(5, 1), other());
        const before = structuredClone(drawn);
        await run(0);
        stays(before);
    });

    test('which of several without a group', async () => {
        job = new StoredJob([0, 5, 6]);
        [1, 2].forEach((group) =>
            [0, 5, 6].forEach((frame) => job.draw({ ...koi(group, frame), source: frame ? 'auto' : 'manual' })),
        );
        job.draw(koi(1, 5, { right: 2 }));
        const before = structuredClone(job.shapes);
        await expect(run(5, AROUND)).rejects.toThrow('there are several shapes with the same label and group');
        expect(job.shapes).toEqual(before);
    });

    test('what is of another label', async () => {
        const drawn = job.draw({ ...koi(1, 5), label_id: 2 });
        const covered = automatic(5, 1);
        await run(5);
        stays(drawn);
        expect(pointsOf(1, 5)).toEqual([covered.points]);
    });

    test('what is drawn where the automatic shape lost its pixels to a new mask, all but a rim: that is said', async () => {
        const rim = { ...automatic(5, 1), points: [0, 20, 180, 15, 50, 34, 59] };
        job.commit({ shapes: [rim], tags: [], tracks: [] }, { shapes: [automatic(5, 1)], tags: [], tracks: [] });
        const drawn = job.draw({ ...koi(1, 5), points: [0, 180, 15, 51, 34, 59] });
        await expect(run(5, AROUND)).rejects.toThrow('It is unclear which object you outlined on frame 5');
        await run(5);
        stays(drawn);
        expect(notices).toEqual([expect.stringContaining('It is unclear which object you outlined on frame 5')]);
    });

    test('which of two shapes is of an object that is lost: that is said', async () => {
        remove(automatic(5, 1));
        const both = [0, 1].map((right) => job.draw(koi(1, 5, { right })));
        await expect(run(5, AROUND)).rejects.toThrow('It is unclear which object you outlined on frame 5');
        await run(0);
        both.forEach(stays);
        expect(notices).toEqual([expect.stringContaining('on frame 5 has no group')]);
    });

    test('what is drawn where an object was, of which another outline is associated there', async () => {
        job = new StoredJob([4, 5, 6]);
        job.draw({ ...koi(1, 4), group: 1, source: 'auto' });
        [5, 6].forEach((frame) => job.draw({ ...koi(1, frame, { right: 30 }), group: 1, source: 'auto' }));
        drawOver(automatic(5, 1), koi(1, 5, { right: 31 }), true);
        const drawn = job.draw(koi(1, 5));
        await expect(run(5, AROUND)).rejects.toThrow('It is unclear which object you outlined on frame 5');
        stays(drawn);
    });

    test('what is drawn behind a person’s outline', async () => {
        job = new StoredJob([4, 5, 6]);
        job.draw({ ...koi(1, 4), group: 1 });
        const drawn = job.draw(koi(1, 5));
        await run(5);
        stays(drawn);
        expect(notices).toEqual([]);
    });

    test('what is drawn far behind the last frame of an object', async () => {
        job.shapes.filter(({ group, frame }) => group === 1 && frame > 3).forEach(remove);
        const drawn = job.draw(koi(1, 5));
        await run(5);
        stays(drawn);
        expect(notices).toEqual([]);
    });

    test('nothing is said of what is drawn elsewhere', async () => {
        job.draw(koi(4, 5));
        await run(5, AROUND);
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [0, 1, 2],
            [0, 1, 2],
            [0, 1, 2],
        ]);
        expect(notices).toEqual([]);
    });

    test('what is grouped where no frame tells the object: that is said', async () => {
        job = new StoredJob([0, 5, 6]);
        [1, 2].forEach((group) =>
            [0, 5, 6].forEach((frame) => {
                const drawn = { ...koi(group, 30 * frame), frame, group }; // further than it is long, every time
                job.draw({ ...drawn, source: frame ? 'auto' : 'manual' });
            }),
        );
        const covered = automatic(5, 1);
        const drawn = drawOver(covered, { ...koi(1, 150), frame: 5 }, true);
        await expect(run(5, AROUND)).rejects.toThrow('It is unclear which object you outlined on frame 5');
        await run(0);
        [drawn, covered].forEach(stays);
        expect(notices).toEqual([expect.stringContaining('It is unclear which object you outlined on frame 5')]);
    });
});

describe('a polygon over a track that has a group', () => {
    const diamond = (x: number): number[] => [x + 10, 100, x + 20, 110, x + 10, 120, x, 110];
    const draw = (frame: number, x: number, group = 0): Shape =>
        job.draw({ frame, type: 'polygon', points: diamond(x), group });
    const convert = { 'Polygons, boxes and ellipses become tracks': 'true' };

    beforeEach(async () => {
        draw(0, 0, 1);
        draw(0, 100, 2);
        await run(0, convert);
    });

    test('without a group: what to do is said', async () => {
        const drawn = draw(5, 7);
        await expect(run(5, AROUND)).rejects.toThrow('has no group, but what it lies on has');
        stays(drawn);
        await run(5, convert);
        expect(notices).toEqual([expect.stringContaining('on frame 5 has no group')]);
    });

    test('after G it becomes a keyframe', async () => {
        job.group(draw(5, 7), job.tracks[0]!);
        await run(5, AROUND);
        expect(job.shapes).toEqual([]);
        const track = job.tracks.find(({ group }) => group === 3)!;
        expect(track.shapes.find(({ frame }) => frame === LAST)?.points).toEqual(diamond(LAST + 2));
        expect(notices).toEqual([]);
    });
});
