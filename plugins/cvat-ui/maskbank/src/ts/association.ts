import type { Collection, Shape } from './cvat-types';
import type { Annotated } from './drawn-over';
import { likeness, SAME } from './drawn-over';
import { liesOn } from './job-shapes';
import type { Named } from './keyframes';
import { isAlike } from './keyframes';
import { OUTLINE_TYPES } from './outlines';

/** A person's shape that is of the object of a program's shape, over which it was drawn. Both are as the job has them. */
export interface Association {
    shape: Shape;
    covered: Shape;
    group: number; // of the object
}

export interface Associated {
    associated: Annotated; // as if the shapes had the groups already
    associations: Association[];
    unclear: Shape[]; // grouped with what they lie on, but nobody knows which object that was
}

/**
 * Associates with its object what persons drew over shapes that a program made of the same label: CVAT gives a new shape
 * no group, and what is put into a group with others gets a new number along with them, and leaves the rest of its object.
 */
export function associate(annotated: Annotated): Associated {
    const drawnOver = ofUngrouped(annotated);
    const { associations, unclear } = ofPairs(withGroups(annotated, drawnOver));
    const all = [...drawnOver, ...associations];
    return { associated: withGroups(annotated, all), associations: all, unclear };
}

/** Those of shapes without a group: each is of the object whose shape it covers, if no other one comes near. */
function ofUngrouped({ everything, isMachineMade }: Annotated): Association[] {
    const onFrame = grouped(outlinesOf(everything), ({ frame, label_id }) => `${frame} ${label_id}`);
    return [...onFrame.values()].flatMap((shapes) => {
        const made = shapes.filter((shape) => isMachineMade(shape, shape));
        const drawn = made.some(({ group }) => group) ? shapes.filter((shape) => !made.includes(shape)) : [];
        return drawn.flatMap((shape): Association[] => {
            const covered = shape.group ? undefined : closest(made, (each) => likeness(shape, each));
            if (!covered?.group || closest(drawn, (each) => likeness(each, covered)) !== shape) {
                return []; // or the object is drawn twice
            }
            const { group } = covered;
            const isAlone = shapes.every((each) => each === covered || each.group !== group);
            return isAlone ? [{ shape, covered, group }] : [];
        });
    });
}

/**
 * Those of shapes that a person grouped with what they lie on, and with nothing else. Of which object that was, the
 * frames around it tell: the object is there on them, and has no shape on this one.
 */
function ofPairs(annotated: Annotated): Pick<Associated, 'associations' | 'unclear'> {
    const objects = [...grouped(outlinesOf(annotated.everything), keyOf).values()];
    const pairs = objects.flatMap((shapes) => pairOf(shapes, annotated) ?? []);
    const paired = new Set(pairs.map(({ shape }) => keyOf(shape)));
    const others = objects.filter(([first]) => !paired.has(keyOf(first!)));
    const told = pairs.flatMap(({ shape, covered }) => {
        const { label_id, frame } = shape;
        const lacking = others.filter((own) => own.every((each) => each.label_id === label_id && each.frame !== frame));
        const own = closest(lacking, (each) => Math.max(...around(each, frame).map((near) => likeness(near, covered))));
        return lacking.length ? [{ shape, covered, own }] : []; // else there is nothing that it can be of
    });
    const clear = told.flatMap(({ shape, covered, own }) => {
        const isOfTwo = told.some(
            (other) => other.own === own && other.shape !== shape && other.shape.frame === shape.frame,
        );
        return own && !isOfTwo ? [{ shape, covered, group: own[0]!.group }] : [];
    });
    const isClear = (shape: Shape): boolean => clear.some((each) => each.shape === shape);
    return { associations: clear, unclear: told.flatMap(({ shape }) => (isClear(shape) ? [] : [shape])) };
}

/** A person's shape and a program's that it lies on, if these are all that there is of a label and group. */
function pairOf(shapes: readonly Shape[], { everything, isMachineMade }: Annotated): Omit<Association, 'group'> | null {
    if (shapes.length !== 2) {
        return null;
    }
    const covered = shapes.find((each) => isMachineMade(each, each));
    const shape = shapes.find((each) => !isMachineMade(each, each));
    if (!covered || !shape || !liesOn(shape, covered)) {
        return null;
    }
    return everything.tracks.some((track) => isAlike(track, shape)) ? null : { shape, covered };
}

function keyOf({ label_id, group }: Named): string {
    return `${label_id} ${group}`;
}

/** The one with most in common, if that is enough, and no other one has half as much. */
function closest<Item>(items: readonly Item[], inCommon: (item: Item) => number): Item | undefined {
    const [best, next] = items
        .map((item) => ({ item, common: inCommon(item) }))
        .sort((one, other) => other.common - one.common);
    return best && best.common >= SAME && (next?.common ?? 0) < best.common / 2 ? best.item : undefined;
}

/** Of an object the last shapes before a frame, and the first behind it. */
function around(shapes: readonly Shape[], frame: number): Shape[] {
    const [last, first] = shapes.reduce(
        ([before, behind], each) =>
            each.frame < frame ? [Math.max(before, each.frame), behind] : [before, Math.min(behind, each.frame)],
        [-Infinity, Infinity],
    );
    return shapes.filter((each) => each.frame === last || each.frame === first);
}

function withGroups(annotated: Annotated, associations: readonly Association[]): Annotated {
    const groups = new Map(
        associations.flatMap(({ shape, covered, group }) => [shape, covered].map((each) => [each.clientID, group])),
    );
    const given = (collection: Collection): Collection => ({
        ...collection,
        shapes: collection.shapes.map((shape) => {
            const group = groups.get(shape.clientID);
            return group === undefined ? shape : { ...shape, group };
        }),
    });
    const { collection, everything } = annotated;
    return { ...annotated, collection: given(collection), everything: given(everything) };
}

function outlinesOf({ shapes }: Collection): Shape[] {
    return shapes.filter(({ type }) => OUTLINE_TYPES.includes(type));
}

function grouped(shapes: readonly Shape[], keyOf: (shape: Shape) => string): Map<string, Shape[]> {
    const found = new Map<string, Shape[]>();
    for (const shape of shapes) {
        const key = keyOf(shape);
        const own = found.get(key) ?? [];
        own.push(shape);
        found.set(key, own);
    }
    return found;
}
