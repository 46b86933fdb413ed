import { expect, test } from 'vitest';
import type { Shape } from '../src/ts/cvat-types';
import type { Followed } from '../src/ts/objects';
import { followedObjects } from '../src/ts/objects';
import { asType, OUTLINE_TYPES } from '../src/ts/outlines';
import { sharedCases } from './cases';

interface Case {
    name: string;
    shapes: (Pick<Shape, 'frame' | 'label_id' | 'type' | 'group'> & Partial<Shape>)[];
    objects: number[][] | 'unclear';
}

/** What is found from a frame on which something is drawn; the shapes have their index as id. */
function followed(shapes: readonly Shape[], from: number): Followed {
    return followedObjects(
        {
            shapes: shapes.filter(({ frame, type }) => frame === from && OUTLINE_TYPES.includes(type)),
            tags: [],
            tracks: [],
        },
        {
            from,
            frames: [...new Set(shapes.map(({ frame }) => frame))].filter((frame) => frame !== from),
            others: [],
            endMoves: true,
            labels: [],
            everything: { shapes: [...shapes], tags: [], tracks: [] },
            states: [],
            convert: false,
            useSeeds: true,
            isMachineMade: ({ source }) => source === 'auto',
        },
    );
}

test.each(sharedCases<Case>('same_object'))('$name', ({ shapes, objects }) => {
    const rest = { rotation: 0, occluded: false, outside: false, z_order: 0, attributes: [], elements: [] };
    const box = { type: 'rectangle', points: [0, 0, 9, 9] };
    const drawn = shapes.map((shape, id): Shape => {
        const points = shape.type === 'mask' ? [0, 100, 0, 0, 9, 9] : asType(box, shape.type).points;
        return { ...rest, id, clientID: id, points, source: 'manual', ...shape };
    });
    const byPersons = drawn.filter(({ source }) => source !== 'auto');
    const runs = [...new Set(byPersons.map(({ frame }) => frame))].map((from) => followed(drawn, from));
    const found = runs.flatMap((run) =>
        run.objects.map((object) => {
            const others = object.kind === 'shape' ? [...object.byPersons.values()] : [];
            return [object.source.id!, ...others.map(({ id }) => id!)].sort((one, other) => one - other).join();
        }),
    );
    if (objects === 'unclear') {
        expect(runs.some(({ crowded }) => crowded.length)).toBe(true);
    } else {
        expect(runs.some(({ crowded }) => crowded.length)).toBe(false);
        expect([...new Set(found)].sort()).toEqual(objects.map((indices) => indices.join()).sort());
    }
});
