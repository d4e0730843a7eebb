/**
 * Work: what a device has to do on the host's thread, one task after the other, a turn at a time. Nothing here recurses: what an
 * interrupt handler asks for while a task runs comes after that task, so thousands of queues that kick each other need one stack.
 */
import { later } from "./later.ts"
import { Turn } from "./turn.ts"

/** Something to do, in pieces. */
export interface Task {
  /** Does what the turn allows. Returns true when there is more to do in the next turn. */
  run(turn: Turn): boolean
}

/** What an empty task costs, as a `Turn` counts it: a driver with 65535 queues must not hold the thread either. */
const TASK_WEIGHT = 4096

export class Work {
  /** Each task once, the oldest first. */
  readonly #ready = new Set<Task>()
  /** Those that are for the next turn. */
  readonly #unfinished = new Set<Task>()
  readonly #turn = new Turn()
  /** The turn of tasks that promises wake: promises that settle at once would give each of them a turn of its own, without end. */
  readonly #wakeTurn = new Turn()
  #isWakeTurnOpen = false
  #isRunning = false
  #isScheduled = false
  #isOpen = true
  #isEndAwaited = false
  readonly #ended: () => void

  /** `ended` is called at the end of turns for which `awaitEnd` has asked. It may throw. */
  constructor(ended: () => void) {
    this.#ended = ended
  }

  /** False while guest memory may not be touched (bus mastering is off): tasks wait. */
  get open(): boolean {
    return this.#isOpen
  }

  set open(open: boolean) {
    this.#isOpen = open
  }

  /** Runs `task` now, or after those that are waiting. */
  do(task: Task): void {
    if (this.#isRunning || !this.#isOpen) {
      this.#ready.add(task)
      return
    }
    if (this.#ready.size > 0) this.#ready.delete(task)
    this.#turn.begin()
    this.#run(this.#turn, task)
  }

  /** Runs the tasks that are waiting. */
  go(): void {
    if (this.#isRunning || !this.#isOpen) return
    this.#turn.begin()
    this.#run(this.#turn, undefined)
  }

  /** Lets `task` wait; whoever calls this calls `go`, `wake` or `soon` then. */
  add(task: Task): void {
    this.#ready.add(task)
  }

  /** Runs the tasks that are waiting, when a promise has woken one. */
  wake(): void {
    if (this.#isRunning || !this.#isOpen) return
    if (!this.#isWakeTurnOpen) {
      this.#isWakeTurnOpen = true
      this.#wakeTurn.begin()
      later(() => (this.#isWakeTurnOpen = false))
    }
    if (this.#wakeTurn.over) this.#schedule()
    else this.#run(this.#wakeTurn, undefined)
  }

  /** Runs the tasks that are waiting in a turn of their own, or at the end of this one. */
  soon(): void {
    if (!this.#isRunning && this.#isOpen) this.#schedule()
  }

  /** Calls `ended` at the end of this turn, or of the next one. To call it each time costs a kick of one request a tenth (measured). */
  awaitEnd(): void {
    this.#isEndAwaited = true
  }

  /** `task` is not to be run any more. */
  drop(task: Task): void {
    this.#ready.delete(task)
    this.#unfinished.delete(task)
  }

  #run(turn: Turn, first: Task | undefined): void {
    this.#isRunning = true
    let current = first
    try {
      if (current?.run(turn) === true) this.#unfinished.add(current)
      current = undefined
      if (this.#ready.size > 0) this.#runReady(turn)
    } finally {
      this.#isRunning = false
      if (current !== undefined || this.#unfinished.size > 0 || this.#ready.size > 0) this.#postpone(current)
    }
    if (this.#isEndAwaited) this.#end()
  }

  /** Apart from `#run`, which V8 inlines then: the usual kick has one task. */
  #runReady(turn: Turn): void {
    let current: Task | undefined
    try {
      while (this.#ready.size > 0 && !turn.over && this.#isOpen) {
        current = this.#takeNext()
        if (current?.run(turn) === true) this.#unfinished.add(current)
        turn.spend(TASK_WEIGHT, 0)
        current = undefined
      }
    } finally {
      if (current !== undefined) this.#unfinished.add(current)
    }
  }

  #end(): void {
    this.#isEndAwaited = false
    this.#ended()
  }

  #takeNext(): Task | undefined {
    const [next] = this.#ready
    if (next !== undefined) this.#ready.delete(next)
    return next
  }

  /**
   * The rest is for the next turn, also after an exception of the embedder's interrupt handler, or of a backing with a bug: nothing may
   * wait for ever. `thrown`: the task that has thrown, which runs again, for it has not said that it is done.
   */
  #postpone(thrown: Task | undefined): void {
    if (thrown !== undefined) this.#unfinished.add(thrown)
    for (const task of this.#unfinished) this.#ready.add(task)
    this.#unfinished.clear()
    if (this.#isOpen) this.#schedule()
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    later(() => {
      this.#isScheduled = false
      this.go()
    })
  }
}
