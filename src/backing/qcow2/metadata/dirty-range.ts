/** Which bytes of a table in memory differ, or may differ, from the disk: one range that covers them all. */
export class DirtyRange {
  /** From `from` up to but not including `to`; both are 0 if nothing is dirty. */
  from = 0
  to = 0

  get isEmpty(): boolean {
    return this.from === this.to
  }

  get length(): number {
    return this.to - this.from
  }

  /** Adds bytes `from` up to but not including `to`. */
  add(from: number, to: number): void {
    if (this.isEmpty) {
      this.from = from
      this.to = to
      return
    }
    if (from < this.from) this.from = from
    if (to > this.to) this.to = to
  }

  /** Notes that all bytes are durable. */
  clear(): void {
    this.from = 0
    this.to = 0
  }
}
