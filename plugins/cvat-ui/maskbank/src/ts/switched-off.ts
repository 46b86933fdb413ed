import type { Keyframe, Track } from './cvat-types';
import { withKeyframes } from './keyframes';
import type { Results } from './results';

/** A track that a person switched off, with what a program had drawn of it from there on. */
export interface SwitchedOff {
    source: Track;
    frame: number; // on which it was switched off
    drawn: Keyframe[]; // and is to be taken away
}

/**
 * What a program drew of a track where a person said that it is gone, from a frame on up to the person's next keyframe:
 * CVAT switches a track off up to its next keyframe only, and a program makes one on each frame. Null if it is nothing.
 *
 * @param frames those that come next, in order, up to which it is asked
 * @param isMachineMade whether a program made a keyframe
 */
export function switchedOff(
    source: Track,
    frames: readonly number[],
    isMachineMade: (keyframe: Keyframe) => boolean,
): SwitchedOff | null {
    const first = frames[0]!;
    const keyframes = source.shapes
        .filter(({ frame }) => frame >= first && frame <= frames.at(-1)!)
        .sort((one, other) => one.frame - other.frame);
    const start = keyframes.findIndex((each) => each.outside && !isMachineMade(each));
    if (start === -1) {
        return null;
    }
    const later = keyframes.slice(start + 1);
    const next = later.findIndex((each) => !isMachineMade(each));
    const drawn = later.slice(0, next === -1 ? later.length : next);
    return drawn.some(({ outside }) => !outside) ? { source, frame: keyframes[start]!.frame, drawn } : null;
}

/** Tracks without that, and those that they take the place of; of one that shows nothing then nothing is left. */
export function takenAway(tracks: readonly SwitchedOff[]): Results {
    const left = tracks.map(({ source, drawn }) =>
        withKeyframes(
            source,
            source.shapes.flatMap((keyframe) => {
                if (!drawn.includes(keyframe)) {
                    return [keyframe];
                }
                // Attributes hold on from it.
                return keyframe.attributes.length ? [{ ...keyframe, outside: true }] : [];
            }),
        ),
    );
    const isSeen = ({ shapes }: Track): boolean => shapes.some(({ outside }) => !outside);
    return {
        created: { shapes: [], tags: [], tracks: left.filter(isSeen) },
        deleted: { shapes: [], tags: [], tracks: tracks.map(({ source }) => source) },
        made: [],
    };
}
