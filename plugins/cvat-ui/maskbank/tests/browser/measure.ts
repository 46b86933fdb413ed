/**
 * Prints, for some numbers of objects (masks, from the fourth on boxes), how long 100 frames take in the browser and what crosses its wire.
 *
 *     npm run measure -- --size 480 --frames 60 --objects 1,3,5
 */
import { parseArgs } from 'node:util';
import { startBrowserSetup } from './setup';

const BOXES = [
    [20, 20, 120, 100],
    [500, 250, 600, 340],
];
const { values } = parseArgs({
    options: {
        size: { type: 'string', default: '480' }, // short side of the function's working image
        frames: { type: 'string', default: '60' }, // of the sample clip
        objects: { type: 'string', default: '1,3,5' },
    },
});
const frames = Number(values.frames);
const setup = await startBrowserSetup(Number(values.size), frames);
try {
    await measure(1, 3); // the first frames of a worker are slower
    for (const count of values.objects.split(',').map(Number)) {
        const { seconds, request, reply } = await measure(count, frames);
        console.log(
            `${count} object${count > 1 ? 's' : ''}, ${frames} frames, size ${values.size}: ` +
                `${((100 * seconds) / frames).toFixed(1)} s per 100 frames; ` +
                `bytes per frame: request ${request.toFixed(0)}, reply ${reply.toFixed(0)}`,
        );
    }
} finally {
    await setup.stop();
}

async function measure(count: number, last: number): Promise<{ seconds: number; request: number; reply: number }> {
    setup.exchanges.length = 0;
    const masks = Object.values(setup.masks[0]!).map((points) => ({ type: 'mask', points }));
    const boxes = BOXES.map((points) => ({ type: 'rectangle', points }));
    const drawn = [...masks, ...boxes]
        .slice(0, count)
        .map((shape, index) => ({ ...shape, frame: 0, group: index + 1 }));
    const outcome = await setup.run({ frames: last, from: 0, drawn, parameters: { 'Target frame': last - 1 } });
    if (outcome.error || drawn.length !== count) {
        throw new Error(outcome.error ?? `The clip has ${drawn.length} objects.`);
    }
    const tracked = setup.exchanges.filter(({ type }) => type === 'track');
    const mean = (part: 'requestBytes' | 'replyBytes'): number =>
        tracked.reduce((sum, exchange) => sum + exchange[part], 0) / tracked.length;
    return { seconds: outcome.seconds, request: mean('requestBytes'), reply: mean('replyBytes') };
}
