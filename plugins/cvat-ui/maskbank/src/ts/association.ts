import type { Collection, Shape } from './cvat-types';
import type { Annotated } from './drawn-over';
import { likeness, SAME } from './drawn-over';
import { liesOn } from './job-shapes';
import type { Named } from './keyframes';
import { isAlike } from './keyframes';
import { OUTLINE_TYPES } from './outlines';

/** A person's shape that is of an object which a program tracked. The shapes are as the job has them. */
export interface Association {
    shape: Shape;
    covered?: Shape; // the program's, whose place it takes
    group: number; // of the object
}

export interface Associated {
    associated: Annotated; // as if the shapes had the groups already
    associations: Association[];
    unclear: Shape[]; // that may be of an object, but nobody knows of which
}

type Found = Pick<Associated, 'associations' | 'unclear'>;

/**
 * Associates with its object what persons drew over shapes that a program made of the same label, or where it lost the
 * object: CVAT gives a new shape no group, and what is put into a group with others gets a new number along with them, and
 * leaves the rest of its object.
 *
 * @param numbers of the job's frames
 */
export function associate(annotated: Annotated, numbers: readonly number[]): Associated {
    const covering = ofUngrouped(annotated);
    const pairs = ofPairs(withGroups(annotated, covering));
    const known = [...covering, ...pairs.associations];
    const bare = ofBare(withGroups(annotated, known), numbers);
    const associations = [...known, ...bare.associations];
    return {
        associated: withGroups(annotated, associations),
        associations,
        unclear: [...pairs.unclear, ...bare.unclear],
    };
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
function ofPairs(annotated: Annotated): Found {
    const objects = [...grouped(outlinesOf(annotated.everything), keyOf).values()];
    const pairs = objects.flatMap((shapes) => pairOf(shapes, annotated) ?? []);
    const paired = new Set(pairs.map(({ shape }) => keyOf(shape)));
    const others = objects.filter(([any]) => !paired.has(keyOf(any!)));
    const told = pairs.flatMap(({ shape, covered }) => {
        const { label_id, frame } = shape;
        const lacking = others.filter((own) => own.every((each) => each.label_id === label_id && each.frame !== frame));
        const own = closest(lacking, (each) => likenessToAny(around(each, frame), covered));
        return lacking.length ? [{ shape, covered, own }] : []; // else there is nothing that it can be of
    });
    const associations = told.flatMap(({ shape, covered, own }) => {
        const isOfTwo = told.some(
            (other) => other.own === own && other.shape !== shape && other.shape.frame === shape.frame,
        );
        return own && !isOfTwo ? [{ shape, covered, group: own[0]!.group }] : [];
    });
    const clear = new Set(associations.map(({ shape }) => shape));
    return { associations, unclear: told.flatMap(({ shape }) => (clear.has(shape) ? [] : [shape])) };
}

/**
 * Those of shapes without a group that lie on nothing of a program's: each is of the object that a program saw there on the
 * frame before or behind, if it has no shape on this one. It was lost, or its shape was deleted; CVAT also takes away the
 * pixels that a new mask covers, if it is told so, and with the last of them the shape.
 */
function ofBare({ everything, isMachineMade }: Annotated, numbers: readonly number[]): Found {
    const placeOf = (frame: number | undefined, { label_id }: Shape): string => `${frame} ${label_id}`;
    const isMade = (shape: Shape): boolean => isMachineMade(shape, shape);
    const places = grouped(outlinesOf(everything), (shape) => placeOf(shape.frame, shape));
    const ordered = [...numbers].sort((one, other) => one - other);
    const told = [...places.values()].flatMap((shapes) => {
        const made = shapes.filter(isMade);
        const liesOnOne = (shape: Shape): boolean => made.some((other) => liesOn(shape, other));
        const bare = shapes.filter((shape) => !shape.group && !made.includes(shape) && !liesOnOne(shape));
        return bare.flatMap((shape) => {
            const { frame } = shape;
            const beside = [ordered.findLast((each) => each < frame), ordered.find((each) => each > frame)]
                .flatMap((each) => places.get(placeOf(each, shape)) ?? [])
                .filter((each) => each.group && isMade(each));
            const own = closest([...grouped(beside, keyOf).values()], (each) => likenessToAny(each, shape));
            if (!own) {
                return [];
            }
            const { group } = own[0]!;
            const isLacking = shapes.every((each) => each.group !== group);
            const isOnly = closest(bare, (each) => likenessToAny(own, each)) === shape;
            return [{ shape, group, isClear: isLacking && isOnly }];
        });
    });
    return {
        associations: told.flatMap(({ shape, group, isClear }) => (isClear ? [{ shape, group }] : [])),
        unclear: told.flatMap(({ shape, isClear }) => (isClear ? [] : [shape])),
    };
}

/** A person's shape and a program's that it lies on, if these are all that there is of a label and group. */
function pairOf(
    shapes: readonly Shape[],
    { everything, isMachineMade }: Annotated,
): { shape: Shape; covered: Shape } | null {
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

function likenessToAny(shapes: readonly Shape[], shape: Shape): number {
    return Math.max(...shapes.map((each) => likeness(each, shape)));
}

/** Of an object the last shapes before a frame, and the first behind it. */
function around(shapes: readonly Shape[], frame: number): Shape[] {
    const [last, first] = shapes.reduce(
        ([before, behind], each) => [
            each.frame < frame ? Math.max(before, each.frame) : before,
            each.frame > frame ? Math.min(behind, each.frame) : behind,
        ],
        [-Infinity, Infinity],
    );
    return shapes.filter((each) => each.frame === last || each.frame === first);
}

function withGroups(annotated: Annotated, associations: readonly Association[]): Annotated {
    const groups = new Map(
        associations.flatMap(({ shape, covered, group }) =>
            [shape, ...(covered ? [covered] : [])].map((each) => [each.clientID, group]),
        ),
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
