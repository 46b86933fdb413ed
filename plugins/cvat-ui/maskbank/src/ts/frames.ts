/** The frames to track through, in order: those of a job behind `from` up to `target`, which may lie before it. */
export function framesToTrack(numbers: readonly number[], from: number, target: number): number[] {
    if (target < from) {
        return numbers.filter((frame) => frame >= target && frame < from).sort((a, b) => b - a);
    }
    return numbers.filter((frame) => frame > from && frame <= target).sort((a, b) => a - b);
}
