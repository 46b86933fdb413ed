/**
 * How long the rest of a run takes, after its pace so far. The first frame counts as the start: before it the tracker
 * learns the objects, which takes longer than a frame.
 */
export class Pace {
    readonly #now: () => number; // milliseconds
    #start: { count: number; at: number } | null = null;

    constructor(now: () => number = Date.now) {
        this.#now = now;
    }

    /** The time that is left when so many of the frames are done, in words; empty if it is unknown or short. */
    left(count: number, total: number): string {
        const at = this.#now();
        if (!this.#start) {
            this.#start = { count, at };
            return '';
        }
        const each = (at - this.#start.at) / (count - this.#start.count);
        const seconds = Math.round((each * (total - count)) / 1000);
        if (seconds < 1) {
            return '';
        }
        return seconds < 120 ? `, ${seconds} s left` : `, ${Math.round(seconds / 60)} min left`;
    }
}
