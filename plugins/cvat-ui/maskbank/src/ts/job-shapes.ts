import type { Collection, Job, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { isDrawnOver, liesOnTrack } from './drawn-over';
import type { Named } from './keyframes';
import { isAlike } from './keyframes';
import { OUTLINE_TYPES, outlineOf } from './outlines';
import { overlap } from './pixels';

export interface Surroundings {
    from: number;
    frames: readonly number[]; // to track through, in order
    others: readonly number[]; // the job's other frames, if what is there counts as well
    everything: Collection; // of the job
    states: readonly ObjectState[]; // on frame `from`
    convert: boolean; // shapes to tracks
    useSeeds: boolean;
    endMoves: boolean; // that of a track which ends right behind `from`
    labels: Job['labels'];
    /** Whether a program made it, and no person changed it since. */
    isMachineMade(object: Shape | Track, drawn: Shape | Keyframe): boolean;
}

interface Split {
    drawn: Shape[]; // by persons
    made: Shape[]; // by a program
}

/** The outlines of a job as a run from one frame sees them. */
export class JobShapes {
    readonly #around: Surroundings;
    readonly #chosen: ReadonlyMap<number | undefined, Shape>;
    readonly #onTheWay: readonly Shape[];
    readonly #elsewhere: readonly Shape[];
    readonly #isOfTrack: (shape: Shape) => boolean;

    /** @param chosen those on that frame whose objects are to be tracked */
    constructor(chosen: readonly Shape[], around: Surroundings) {
        const outlines = around.everything.shapes.filter(({ type }) => OUTLINE_TYPES.includes(type));
        const [visited, others] = [new Set([around.from, ...around.frames]), new Set(around.others)];
        this.#around = around;
        this.#chosen = new Map(chosen.map((shape) => [shape.clientID, shape]));
        this.#onTheWay = outlines.filter(({ frame }) => visited.has(frame));
        this.#elsewhere = outlines.filter(({ frame }) => others.has(frame));
        this.#isOfTrack = drawnOverTracks(around.everything.tracks);
    }

    isByPerson(shape: Shape): boolean {
        return !this.#around.isMachineMade(shape, shape);
    }

    /**
     * What is of an object on the current frame and on those to come, or on one of them only, without what waits to become
     * a track's keyframe.
     */
    onTheWay(source: Named, on?: number): Split {
        const waits = (shape: Shape): boolean =>
            shape.type !== 'mask' && this.isByPerson(shape) && this.#isOfTrack(shape);
        const isOn = ({ frame }: Shape): boolean => on === undefined || frame === on;
        const alike = this.#onTheWay.filter((shape) => isOn(shape) && isAlike(shape, source));
        return this.#split(alike.filter((shape) => this.#chosen.has(shape.clientID) || !waits(shape)));
    }

    /** What is of an object on other frames, as far as it is clear. */
    elsewhere(source: Named): Split {
        const alike = this.#elsewhere.filter((shape) => isAlike(shape, source) && !this.#isOfTrack(shape));
        const { drawn, made } = this.#split(alike);
        const isUnclear = (shape: Shape): boolean =>
            made.some((other) => other.frame === shape.frame && !liesOn(shape, other));
        const isClear = !framesWithSeveral(drawn).length && !drawn.some(isUnclear);
        return { drawn: isClear ? drawn : [], made: isClear && !framesWithSeveral(made).length ? made : [] };
    }

    /** The outline that a person drew over a shape of a program's to take its place, if it is clear that it is one. */
    drawnOver(shape: Shape): Shape | undefined {
        if (this.isByPerson(shape)) {
            return undefined;
        }
        const { drawn, made } = this.onTheWay(shape, shape.frame);
        const isClear = drawn.length === 1 && made.length === 1 && liesOn(drawn[0]!, made[0]!);
        return isClear ? drawn[0] : undefined;
    }

    /** Those from which objects are tracked: what was chosen, or what a person drew over it. */
    sources(): Shape[] {
        const sourceOf = (shape: Shape): Shape => {
            const drawn = this.drawnOver(shape);
            return drawn ? (this.#chosen.get(drawn.clientID) ?? drawn) : shape;
        };
        return [...new Set([...this.#chosen.values()].map(sourceOf))];
    }

    /** The frames on which it is unclear which object of a label and group a shape is of. */
    unclearFrames({ drawn, made }: Split): number[] {
        const isBeside = (each: Shape): boolean => drawn.some(({ frame }) => frame === each.frame);
        const beside = made.filter((each) => isBeside(each) && !this.drawnOver(each));
        return [...framesWithSeveral(drawn), ...framesWithSeveral(made), ...beside.map(({ frame }) => frame)];
    }

    /** A person's outlines without a group: on other frames, or on a program's shape or a track of a group. */
    ungrouped(sources: readonly Shape[]): Shape[] {
        const { from, everything, states } = this.#around;
        const shapes = this.#onTheWay.filter((shape) => shape.group && !this.isByPerson(shape));
        const tracks = everything.tracks.filter(({ group }) => group);
        const liesOnOne = (shape: Shape): boolean =>
            shapes.some((other) => liesOn(shape, other)) ||
            tracks.some((track) => track.label_id === shape.label_id && liesOnTrack(shape, track, states));
        const mayBeOneOf = (shape: Shape): boolean =>
            shape.frame === from
                ? this.#chosen.has(shape.clientID) && liesOnOne(shape)
                : sources.some(({ label_id, group }) => group && label_id === shape.label_id) &&
                  !sources.some((source) => isAlike(shape, source));
        return this.#onTheWay.filter((shape) => !shape.group && this.isByPerson(shape) && mayBeOneOf(shape));
    }

    #split(shapes: readonly Shape[]): Split {
        return {
            drawn: shapes.filter((shape) => this.isByPerson(shape)),
            made: shapes.filter((shape) => !this.isByPerson(shape)),
        };
    }
}

/** Whether shapes agree in what stays the same along a track. */
export function sameAttributes(labels: Job['labels']): (one: Shape, other: Shape) => boolean {
    const attributes = labels.flatMap((label) => label.attributes);
    const mutable = new Set(attributes.filter((each) => each.mutable).map(({ id }) => id));
    const fixed = (shape: Shape): string =>
        JSON.stringify(
            shape.attributes
                .filter(({ spec_id }) => !mutable.has(spec_id))
                .map(({ spec_id, value }) => [spec_id, value])
                .sort(),
        );
    return (one, other) => fixed(one) === fixed(other);
}

/** Whether a shape is drawn over a keyframe of a track of its label and group: it is of that, then. */
function drawnOverTracks(tracks: readonly Track[]): (shape: Shape) => boolean {
    const keyOf = ({ label_id, group }: Named, frame: number): string => `${label_id} ${group} ${frame}`;
    const shown = new Map<string, Keyframe[]>();
    for (const track of tracks) {
        for (const keyframe of track.shapes.filter(({ type, outside }) => OUTLINE_TYPES.includes(type) && !outside)) {
            const key = keyOf(track, keyframe.frame);
            shown.set(key, [...(shown.get(key) ?? []), keyframe]);
        }
    }
    const known = new Map<Shape, boolean>();
    const isOver = (shape: Shape): boolean =>
        (shown.get(keyOf(shape, shape.frame)) ?? []).some((keyframe) => isDrawnOver(shape, keyframe));
    return (shape) => {
        const is = known.get(shape) ?? isOver(shape);
        known.set(shape, is);
        return is;
    };
}

/** Whether two shapes of a label on one frame cover something in common. */
export function liesOn(one: Shape, other: Shape): boolean {
    const isComparable = one.frame === other.frame && one.label_id === other.label_id;
    return isComparable && overlap(outlineOf(one), outlineOf(other)) > 0;
}

function framesWithSeveral(shapes: readonly Shape[]): number[] {
    const frames = shapes.map(({ frame }) => frame);
    return frames.filter((frame, index) => frames.indexOf(frame) !== index);
}
