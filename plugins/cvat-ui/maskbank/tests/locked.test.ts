import { beforeEach, expect, test } from 'vitest';
import { AITracker } from '../src/ts/action';
import type { Shape } from '../src/ts/cvat-types';
import { coreOf, MemoryStorage, runAction, StoredJob, withSentence } from './cvat';
import { MASKBANK, moved, screenOf, Server } from './server';

const BOX = [10, 20, 30, 40];
const MASK = [0, 2, 1, 3, 100, 50, 102, 51];
const OTHER = [0, 6, 200, 50, 202, 51];
const LAST = 5;

let job: StoredJob;
let action: AITracker;
let notices: string[];
let summaries: string[];

beforeEach(() => {
    job = new StoredJob(Array.from({ length: LAST + 1 }, (_, frame) => frame));
    [notices, summaries] = [[], []];
    const showSummary = ({ text }: { text: string }): void => void summaries.push(text);
    const screen = { ...screenOf(job, notices), showSummary };
    const storage = new MemoryStorage();
    action = new AITracker(coreOf([MASKBANK], new Server().call), screen, () => storage);
});

const run = (frame: number, tracks = false): Promise<void> =>
    withSentence(
        runAction(action, job, frame, { 'Polygons, boxes and ellipses become tracks': String(tracks) }),
        notices,
    );
const drawMask = (frame: number, points: number[], more: Partial<Shape> = {}): Shape =>
    job.draw({ frame, ...moved({ type: 'mask', points }, frame), ...more });

test('what is locked is left, which the summary says', async () => {
    const locked = drawMask(0, MASK, { group: 1 });
    drawMask(0, OTHER, { group: 2 });
    job.drawTrack('rectangle', [{ frame: 0, points: BOX }], { group: 3 });
    const track = structuredClone(job.tracks[0]!);
    job.locked.add(locked.clientID).add(track.clientID);
    await run(0);
    expect(job.shapes.filter(({ group }) => group === 1)).toEqual([locked]);
    expect(job.shapes.filter(({ group }) => group === 2)).toHaveLength(LAST + 1);
    expect(job.tracks).toEqual([track]);
    expect(summaries).toEqual([expect.stringContaining('Left as it was, because locked: 2 objects.')]);
});

test.each([false, true])('a run with nothing that is not locked says so (tracks: %s)', async (tracks) => {
    const locked = job.draw({ frame: 0, type: 'rectangle', points: BOX });
    job.drawTrack('rectangle', [{ frame: 3, points: BOX }], { group: 2 }); // not to be seen yet
    job.locked.add(locked.clientID);
    await expect(run(0, tracks)).rejects.toThrow('All that was chosen on this frame is locked: unlock');
    expect([job.shapes, job.commits]).toEqual([[locked], []]);
});

test('of a person’s outline and the program’s under it, one is locked: both are left', async () => {
    for (const isDrawnLocked of [false, true]) {
        drawMask(0, MASK, { group: 1 });
        await run(0);
        const made = job.shapes.find(({ frame }) => frame === 2)!;
        const drawn = drawMask(2, [0, 6, 100, 50, 102, 51]);
        drawMask(2, OTHER, { group: 2 });
        job.locked.add(isDrawnLocked ? drawn.clientID : made.clientID);
        const before = structuredClone(job.shapes.filter(({ group }) => group !== 2));
        await run(2);
        expect(job.shapes.filter(({ group }) => group !== 2)).toEqual(before);
        expect(job.shapes.filter(({ group }) => group === 2)).toHaveLength(LAST - 1);
        job.commit({ shapes: [], tags: [], tracks: [] }, { shapes: [...job.shapes], tags: [], tracks: [] });
    }
});

test.each([false, true])(
    'a locked track, or what is drawn over it, is not merged (track: %s)',
    async (isTrackLocked) => {
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
        drawMask(2, OTHER, { group: 2 });
        const track = structuredClone(job.tracks[0]!);
        const drawn = job.draw({ frame: 2, type: 'rectangle', points: BOX });
        job.locked.add(isTrackLocked ? track.clientID : drawn.clientID);
        await run(2);
        expect(job.tracks).toEqual([track]);
        expect(job.shapes.filter(({ group }) => !group)).toEqual([drawn]);
        expect(summaries).toEqual([expect.stringContaining('because locked: 2 objects.')]);
    },
);
