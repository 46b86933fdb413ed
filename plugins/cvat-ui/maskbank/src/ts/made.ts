import type { Attribute, Collection, Drawn } from './cvat-types';

/** The part of the browser's `localStorage` that is used. */
export type Shelf = Pick<Storage, 'getItem' | 'setItem' | 'removeItem' | 'key' | 'length'>;

const PREFIX = 'maskbank.made.'; // and the job's id
const MOST_CHARACTERS = 1_500_000; // of all jobs: browsers give CVAT's interface five million for all that it keeps

interface Kept {
    used: number; // when, in milliseconds
    made: Record<string, string[]>;
}

/**
 * What the action drew: CVAT notes who made a shape, but not who made a keyframe of a track. What a person changes looks
 * otherwise, so it is no longer among it. It is kept with the attributes that it was given, as a change of these alone
 * leaves it a program's.
 *
 * This browser keeps it, for the jobs that were used last, so it is known when the page is loaded anew.
 */
export class Made {
    readonly #shelf: () => Shelf;
    readonly #jobs = new Map<number, Map<string, Set<string>>>(); // attributes by what was drawn
    readonly #added = new Set<string>(); // since the run began
    readonly #dropped = new Set<string>(); // likewise
    readonly #undoable = new Map<number, Set<string>>(); // by job, what was in it or added since the page was loaded
    #job = 0;

    /** @param shelf may throw, as `localStorage` does where a browser is told to keep nothing */
    constructor(shelf: () => Shelf) {
        this.#shelf = shelf;
    }

    /** Goes to a job, and reads what this browser knows of it: another tab may have added to that. */
    open(job: number): void {
        this.#job = job;
        this.#added.clear();
        this.#dropped.clear();
        const known = this.#ofJob();
        for (const [drawn, attributes] of Object.entries(this.#read(job)?.made ?? {})) {
            known.set(drawn, new Set([...(known.get(drawn) ?? []), ...attributes]));
        }
    }

    add(drawn: Drawn): void {
        const known = this.#ofJob();
        const key = fingerprint(drawn);
        this.#added.add(key);
        const opposite = fingerprint({ ...drawn, outside: !drawn.outside }); // which a person may make of it
        known.delete(opposite);
        this.#dropped.add(opposite);
        this.#dropped.delete(key);
        known.set(key, new Set(drawn.attributes.map(textOf))); // no others: what an earlier run gave, a person may set
    }

    has(drawn: Drawn): boolean {
        return this.#ofJob().has(fingerprint(drawn));
    }

    /** Whether a person changed an attribute of what was drawn. */
    isChanged(drawn: Drawn, attribute: Attribute): boolean {
        const given = this.#ofJob().get(fingerprint(drawn));
        return !!given && !given.has(textOf(attribute));
    }

    /**
     * Lets this browser keep what is known of the job; false if it does not, and the page alone knows it.
     *
     * @param before what was in the job when the run began. What it has no more is kept as long as there is room: it may
     *     be undone, saved and loaded anew
     */
    save(before: Collection): boolean {
        const shapes = before.shapes.filter(({ attributes }) => attributes.length);
        const drawn = [...shapes, ...before.tracks.flatMap((track) => track.shapes)];
        const needed = new Set([...this.#added, ...drawn.map(fingerprint)]);
        const undoable = this.#undoable.get(this.#job) ?? new Set();
        needed.forEach((key) => undoable.add(key));
        this.#undoable.set(this.#job, undoable);
        for (const [key, given] of Object.entries(this.#read(this.#job)?.made ?? {})) {
            if (!this.#ofJob().has(key) && !this.#dropped.has(key)) {
                this.#ofJob().set(key, new Set(given)); // another tab has added it since the run began
                needed.add(key);
            }
        }
        try {
            const all = this.#textOf(new Set([...undoable, ...needed]));
            const text = all.length <= MOST_CHARACTERS / 2 ? all : this.#textOf(needed); // other jobs need room, too
            return text.length <= MOST_CHARACTERS && this.#keep(text);
        } catch {
            return false;
        }
    }

    #textOf(keys: ReadonlySet<string>): string {
        const known = [...this.#ofJob()].filter(([key]) => keys.has(key));
        const made = Object.fromEntries(known.map(([key, given]) => [key, [...given]]));
        return JSON.stringify({ used: Date.now(), made } satisfies Kept);
    }

    #ofJob(): Map<string, Set<string>> {
        const known = this.#jobs.get(this.#job) ?? new Map();
        this.#jobs.set(this.#job, known);
        return known;
    }

    #read(job: number): Kept | null {
        try {
            const kept = JSON.parse(this.#shelf().getItem(PREFIX + job) ?? 'null');
            return Object.values(kept.made).every(Array.isArray) ? kept : null;
        } catch {
            return null; // the browser keeps nothing, which `save` tells, or what is there is not of this plugin
        }
    }

    /** Keeps the text of the job, if need be in the place of other jobs, those first that were used longest ago. */
    #keep(text: string): boolean {
        const shelf = this.#shelf();
        const others = this.#others(shelf);
        const dropped: typeof others = [];
        for (let total = text.length + others.reduce((sum, other) => sum + other.text.length, 0); ;) {
            try {
                if (total <= MOST_CHARACTERS) {
                    shelf.setItem(PREFIX + this.#job, text);
                    return true;
                }
            } catch {
                // The browser's room is full, which leaving another job may help.
            }
            const oldest = others.shift();
            if (!oldest) {
                dropped.forEach((other) => shelf.setItem(other.key, other.text)); // it did not help
                return false;
            }
            shelf.removeItem(oldest.key);
            dropped.push(oldest);
            total -= oldest.text.length;
        }
    }

    /** What is kept of other jobs, the one that was used longest ago first. */
    #others(shelf: Shelf): { key: string; text: string }[] {
        const keys = Array.from({ length: shelf.length }, (_, index) => shelf.key(index) ?? '');
        return keys
            .filter((key) => key.startsWith(PREFIX) && key !== PREFIX + this.#job)
            .map((key) => ({
                key,
                text: shelf.getItem(key) ?? '',
                used: this.#read(Number(key.slice(PREFIX.length)))?.used ?? 0,
            }))
            .sort((one, other) => one.used - other.used);
    }
}

function textOf({ spec_id, value }: Attribute): string {
    return JSON.stringify([spec_id, value]);
}

/** Short, as there are thousands in a job: 64 bits of what is drawn, by FNV-1a with two primes. */
function fingerprint({ frame, type, points, rotation, occluded, outside, z_order }: Drawn): string {
    const rounded = points?.map((number) => Math.round(number * 100)); // the server may round what it saves
    const text = JSON.stringify([frame, type, rotation ?? 0, !!occluded, !!outside, z_order ?? 0, rounded]);
    let [one, other] = [0x811c9dc5, 0xcbf29ce4];
    for (let index = 0; index < text.length; index++) {
        const code = text.charCodeAt(index);
        one = Math.imul(one ^ code, 0x01000193);
        other = Math.imul(other ^ code, 0x5bd1e995);
    }
    return (one >>> 0).toString(36) + (other >>> 0).toString(36).padStart(7, '0');
}
