import type { Association } from './association';
import { fixedAttributes, heldAttributes, inherited, isMutable, without } from './attributes';
import type { Attribute, Collection, CollectionActionOutput, Drawn, Job, Keyframe, Shape, Track } from './cvat-types';
import type { DrawnOver } from './drawn-over';
import { drawnAs, inOrder, withKeyframes, withoutIds } from './keyframes';
import type { FollowedShape } from './objects';
import type { Outline } from './outlines';
import { asType } from './outlines';
import type { Outcome } from './runs';
import type { Target } from './tracking';

export interface Results extends CollectionActionOutput {
    made: Drawn[]; // what of it is to be known as a program's
}

export type NextFrame = (frame: number) => number | undefined;

type Found = Outcome['found'];
type IsChanged = (drawn: Drawn, attribute: Attribute) => boolean;

export function nothing(): Collection {
    return { shapes: [], tags: [], tracks: [] };
}

/**
 * What tracking changes in a job.
 *
 * @param next the frame of the job behind another one; undefined behind the last one. Deleted ones are none.
 * @param isChanged whether a person changed an attribute of what a program made, as far as that is known
 */
export function resultsOf(
    outcomes: readonly Outcome[],
    labels: Job['labels'],
    next: NextFrame,
    isChanged: IsChanged,
): Results {
    const found = outcomes.filter((outcome) => outcome.found.size); // else all of it was annotated
    const all = found.map((outcome) => changesOf(outcome, labels, next, isChanged));
    return {
        created: { shapes: all.flatMap(({ shapes }) => shapes), tags: [], tracks: all.flatMap(({ tracks }) => tracks) },
        deleted: {
            shapes: all.flatMap(({ oldShapes }) => oldShapes),
            tags: [],
            tracks: all.flatMap(({ oldTracks }) => oldTracks),
        },
        made: all.flatMap(({ made }) => made),
    };
}

/** Two changes in one step. */
export function combined(one: Results, other: Results): Results {
    return {
        created: joined(one.created, other.created),
        deleted: joined(one.deleted, other.deleted),
        made: [...one.made, ...other.made],
    };
}

/** The same, without the shapes that became keyframes of the tracks that are changed. */
export function withShapesOver(results: Results, over: readonly DrawnOver[]): Results {
    const used = over.filter(({ track }) => results.deleted.tracks.includes(track));
    const shapes = used.map(({ shape }) => shape);
    return {
        ...results,
        deleted: joined(results.deleted, { ...nothing(), shapes }),
        made: [...results.made, ...used.flatMap(({ byProgram }) => byProgram)],
    };
}

/** The same, with the groups of their objects for what persons drew over a program's shapes, and without these. */
export function withAssociated(results: Results, associations: readonly Association[]): Results {
    const gone = new Set(results.deleted.shapes.map(({ clientID }) => clientID));
    const isLeft = ({ clientID }: Shape): boolean => !gone.has(clientID);
    const left = associations.filter(({ shape }) => isLeft(shape)); // else it became another shape, or a track's keyframe
    const regrouped = left.map(({ shape, group }) => ({ ...withoutIds(shape), group }));
    const shapes = [
        ...left.map(({ shape }) => shape),
        ...associations.flatMap(({ covered }) => covered ?? []).filter(isLeft),
    ];
    return {
        ...results,
        created: joined(results.created, { ...nothing(), shapes: regrouped }),
        deleted: joined(results.deleted, { ...nothing(), shapes }),
    };
}

function joined(one: Collection, other: Collection): Collection {
    return { shapes: [...one.shapes, ...other.shapes], tags: [], tracks: [...one.tracks, ...other.tracks] };
}

interface Changes {
    shapes: Shape[];
    tracks: Track[];
    oldShapes: Shape[];
    oldTracks: Track[];
    made: Drawn[];
}

function changesOf(
    { object, from, done, found, beside = [] }: Outcome,
    labels: Job['labels'],
    next: NextFrame,
    isChanged: IsChanged,
): Changes {
    if (object.kind === 'track') {
        const { source, shown } = object;
        // Without keyframes there, CVAT would interpolate up to what was found: what was not tracked would move.
        const added = [shown, ...beside].filter((each) => source.shapes.every(({ frame }) => frame !== each.frame));
        const track = { ...source, shapes: [...source.shapes, ...added] };
        const behind = next(Math.max(from, ...done));
        const end = isOutside(source.shapes, behind) ? behind : undefined;
        const { keyframes, made } = keyframesOf(track, object, found, done, end);
        const tracks = [withKeyframes(source, keyframes)];
        return { shapes: [], tracks, oldShapes: [], oldTracks: [source], made: [...added, ...made] };
    }
    const visited = new Set([from, ...done]);
    const { object: shown, heirs } = withInherited(object, visited, labels);
    const { source, group, byPersons, byMachine } = shown;
    const replaced = [...visited].flatMap((frame) => byMachine.get(frame) ?? []);
    if (object.becomesTrack) {
        const known = [...byPersons.values(), ...byMachine.values()];
        const { track, byProgram } = convertedTrack(shown, labels, visited, isChanged);
        const { keyframes, made } = withEnds(keyframesOf(track, shown, found, done, undefined), next);
        return {
            shapes: [],
            tracks: [withKeyframes(track, keyframes)],
            oldShapes: [...new Set([source, ...known.filter(({ type }) => type !== 'mask'), ...replaced])],
            oldTracks: [],
            made: [...made, ...keyframes.filter((keyframe) => byProgram.has(keyframe))],
        };
    }
    const made = shapesOf(shown, found);
    const kept = made.map((shape) => withChanged(shape, byMachine.get(shape.frame), isChanged));
    const anew = [...new Set([...heirs, ...(group === source.group ? [] : [source])])];
    const groupOf = (shape: Shape): number => (shape === source ? group : shape.group);
    return {
        shapes: [...kept, ...anew.map((shape) => ({ ...withoutIds(shape), group: groupOf(shape) }))],
        tracks: [],
        oldShapes: [...replaced, ...anew],
        oldTracks: [],
        made: made.filter(({ attributes }) => attributes.length), // that a program made it, its source tells
    };
}

/**
 * An object where what a person drew over a program's shapes has their attributes, but for those that the person set:
 * CVAT gives a new shape the defaults, which would spread to the frames around it. And the shapes that changed so.
 */
function withInherited(
    object: FollowedShape & Target,
    visited: ReadonlySet<number>,
    labels: Job['labels'],
): { object: FollowedShape & Target; heirs: Shape[] } {
    const heirs: Shape[] = [];
    const heirOf = (shape: Shape): Shape => {
        const covered = visited.has(shape.frame) ? object.byMachine.get(shape.frame) : undefined;
        const attributes = inherited(shape, covered?.attributes ?? [], labels);
        if (!without(attributes, shape.attributes).length) {
            return shape;
        }
        const heir = { ...shape, attributes };
        heirs.push(heir);
        return heir;
    };
    const source = object.isByPerson ? heirOf(object.source) : object.source;
    const byPersons = new Map([...object.byPersons].map(([frame, shape]) => [frame, heirOf(shape)]));
    return { object: { ...object, source, byPersons }, heirs };
}

/** Shapes of what was found, else as the nearest outline is, of two the earlier: `nearest_seed` of the Python package. */
function shapesOf({ source, group, byPersons }: FollowedShape, found: Found): Shape[] {
    const outlines = [source, ...byPersons.values()].sort(inOrder);
    const always = { label_id: source.label_id, group, rotation: 0, outside: false, source: 'auto', elements: [] };
    return [...found].flatMap(([frame, { outline, confidence }]) => {
        if (!outline) {
            return [];
        }
        const distance = (each: Shape): number => Math.abs(each.frame - frame);
        const nearest = outlines.reduce((best, each) => (distance(each) < distance(best) ? each : best));
        const { occluded, z_order } = nearest;
        const attributes = nearest.attributes.map((each) => ({ ...each }));
        const score = confidence === null ? {} : { score: confidence };
        return [{ ...always, frame, ...asType(outline, source.type), occluded, z_order, ...score, attributes }];
    });
}

/** A shape with the attributes that a person changed on the one whose place it takes. */
function withChanged(shape: Shape, replaced: Shape | undefined, isChanged: IsChanged): Shape {
    const changed = replaced?.attributes.filter((each) => isChanged(replaced, each)) ?? [];
    const attributes = shape.attributes.map((each) => changed.find(({ spec_id }) => spec_id === each.spec_id) ?? each);
    return { ...shape, attributes };
}

interface Keyframes {
    keyframes: Keyframe[];
    made: Keyframe[];
}

/**
 * The keyframes of a track after tracking, in order, and those of them that are new.
 *
 * @param end the frame from which on it is gone, behind what was tracked through; else it stays where it was seen last
 */
function keyframesOf(
    track: Track,
    { start, annotated }: Target,
    found: Found,
    done: readonly number[],
    end: number | undefined,
): Keyframes {
    const before = [...track.shapes].sort(inOrder);
    const after = new Map(before.map((keyframe) => [keyframe.frame, keyframe]));
    const own = new Set<Keyframe>();
    const { type } = before[0]!; // a track has one type
    let { points } = asType(start, type);
    const set = (frame: number, outline: Outline | null): void => {
        points = outline ? asType(outline, type).points : points;
        const attributes = after.get(frame)?.attributes ?? [];
        // These hold from one keyframe to the next, so each new one would end what a person set before it.
        const { occluded, z_order } = before.findLast((each) => each.frame <= frame) ?? before[0]!;
        const keyframe = { frame, type, points, rotation: 0, occluded, z_order, outside: !outline, attributes };
        after.set(frame, keyframe);
        own.add(keyframe);
    };
    done.filter((frame) => !annotated.has(frame)).forEach((frame) => set(frame, found.get(frame)?.outline ?? null));
    if (end !== undefined && !after.has(end)) {
        set(end, null);
    }
    const ordered = [...after.values()].sort(inOrder);
    const keyframes = ordered.filter((keyframe, index) => {
        const saysNothingNew = keyframe.outside && (ordered[index - 1]?.outside ?? true) && !keyframe.attributes.length;
        return !(own.has(keyframe) && saysNothingNew);
    });
    const [first] = keyframes;
    if (first && before[0] && first.frame < before[0].frame) {
        first.attributes = before[0].attributes; // attributes hold from a keyframe on, and there were none before it
    }
    return { keyframes, made: keyframes.filter((keyframe) => own.has(keyframe)) };
}

/** The same, and the track is gone behind each keyframe where the job's next frame has none: a shape is seen once. */
function withEnds({ keyframes, made }: Keyframes, next: NextFrame): Keyframes {
    const frames = new Set(keyframes.map(({ frame }) => frame));
    const ends = keyframes.flatMap((keyframe): Keyframe[] => {
        const behind = next(keyframe.frame);
        if (keyframe.outside || behind === undefined || frames.has(behind)) {
            return [];
        }
        frames.add(behind);
        return [{ ...withoutIds(keyframe), frame: behind, outside: true, attributes: [] }];
    });
    return { keyframes: [...keyframes, ...ends].sort(inOrder), made: [...made, ...ends] };
}

function isOutside(keyframes: readonly Keyframe[], frame: number | undefined): boolean {
    const before = keyframes.filter((keyframe) => frame !== undefined && keyframe.frame <= frame).sort(inOrder);
    return before.at(-1)?.outside ?? false;
}

/**
 * A shape as a track, along with the other shapes of its object, and the keyframes of it that a program made.
 *
 * CVAT has no tracks of masks; those here are a program's, and are left out.
 */
function convertedTrack(
    { source, isByPerson, group, byPersons, byMachine }: FollowedShape,
    labels: Job['labels'],
    visited: ReadonlySet<number>,
    isChanged: IsChanged,
): { track: Track; byProgram: Set<Keyframe> } {
    const drawn = [...byPersons.values()];
    const made = [...byMachine.values()].filter(
        ({ frame, type }) => frame !== source.frame && !byPersons.has(frame) && type !== 'mask',
    );
    const shapes = [source, ...drawn, ...made];
    const changedOn = (shape: Shape): Attribute[] => shape.attributes.filter((each) => isChanged(shape, each));
    const onTheWay = made.filter(({ frame }) => visited.has(frame));
    const changes = new Map(onTheWay.map((shape) => [shape, changedOn(shape)]));
    const attributes = heldAttributes(shapes, changes, source.attributes);
    const keyframeOf = (shape: Shape): Keyframe => ({
        ...drawnAs(shape, source.type),
        ...{ frame: shape.frame, occluded: shape.occluded, z_order: shape.z_order, outside: false },
        attributes: attributes.get(shape)!.filter(isMutable(labels)),
    });
    const keyframes = shapes.map(keyframeOf);
    const track = {
        label_id: source.label_id,
        group,
        source: isByPerson || drawn.length ? 'semi-auto' : 'auto',
        frame: source.frame,
        elements: [],
        attributes: fixedAttributes(source, drawn, labels),
        shapes: keyframes,
    };
    const isByProgram = (shape: Shape): boolean => made.includes(shape) || (shape === source && !isByPerson);
    return { track, byProgram: new Set(keyframes.filter((_, index) => isByProgram(shapes[index]!))) };
}
