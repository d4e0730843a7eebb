/** A clock that stands still until the test moves it. */
import type { ThrottleClock } from "../../../../src/index.ts"
import { settled } from "../../../harness/fake-disk.ts"

interface Alarm {
  readonly at: number
  readonly task: () => void
}

export class ManualClock implements ThrottleClock {
  time = 0
  looks = 0
  readonly #alarms = new Set<Alarm>()

  now(): number {
    this.looks++
    return this.time
  }

  after(ms: number, task: () => void): () => void {
    if (!(ms > 0)) throw new Error(`an alarm in ${ms} ms would not let time pass`)
    const alarm = { at: this.time + ms, task }
    this.#alarms.add(alarm)
    return () => void this.#alarms.delete(alarm)
  }

  /** Alarms that are set. */
  get alarms(): number {
    return this.#alarms.size
  }

  /** Lets time pass up to `time`; alarms go off in their order, each at its time. */
  runTo(time: number): void {
    for (;;) {
      const [next] = [...this.#alarms].filter(({ at }) => at <= time).sort((a, b) => a.at - b.at)
      if (next === undefined) break
      this.#alarms.delete(next)
      this.time = next.at
      next.task()
    }
    this.time = time
  }

  /** Lets `ms` milliseconds pass, one after the other, and all that follows from them happen. */
  async pass(ms: number): Promise<void> {
    for (let done = 0; done < ms; done++) {
      this.runTo(this.time + 1)
      await settled()
    }
  }
}
