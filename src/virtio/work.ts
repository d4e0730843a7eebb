/**
 * Work: runs the tasks of a device on the host's thread, one after the other, in turns. It never recurses: a task that an interrupt handler
 * requests while another one runs comes after that, so thousands of queues that kick each other do not exhaust the stack.
 */
import { later } from "../turns.ts"
import { Turn } from "./turn.ts"

/** Work that can be done in pieces. */
export interface Task {
  /** Does as much as the turn allows. Returns true if there is more to do in the next turn. */
  run(turn: Turn): boolean
}

/** A faster way to do a task that has very little to do. */
export interface Shortcut {
  /** Returns false if there is more to do, or something else: then the task has to run. */
  serve(turn: Turn): boolean
}

/** The weight of an empty task in a `Turn`, so that a driver with 65535 queues cannot hold the thread. */
const TASK_WEIGHT = 4096

// Bits of `Work.#state`, each a reason why a kick is not the only thing to do:

/** A task runs. */
const RUNNING = 1
/** Guest memory may not be touched. */
const CLOSED = 2
/** There are tasks in `#ready`. */
const READY = 4
/** `awaitEnd` has been called. */
const END_AWAITED = 8

export class Work {
  /** Each task once, the oldest first. */
  readonly #ready = new Set<Task>()
  /** Tasks for the next turn. */
  readonly #unfinished = new Set<Task>()
  readonly #turn = new Turn()
  /** One turn for all tasks that promises wake: promises that settle at once would otherwise begin one turn after another, without end. */
  readonly #wakeTurn = new Turn()
  #isWakeTurnOpen = false
  #isScheduled = false
  /** One number, so that the usual kick needs a single comparison with 0. */
  #state = 0
  readonly #ended: () => void

  /** `ended` is called at the end of a turn if `awaitEnd` was called. It may throw. */
  constructor(ended: () => void) {
    this.#ended = ended
  }

  /** False while guest memory may not be touched (bus mastering is off): tasks wait. */
  get open(): boolean {
    return (this.#state & CLOSED) === 0
  }

  set open(open: boolean) {
    if (open) this.#state &= ~CLOSED
    else this.#state |= CLOSED
  }

  /** Runs `task` now, or after those that are waiting. If there is nothing else to do, `shortcut` may do it instead. */
  do(task: Task, shortcut?: Shortcut): void {
    if (this.#state !== 0) return this.#doBesides(task)
    // The usual kick: there is nothing else to do, before or after it.
    this.#state = RUNNING
    this.#turn.begin()
    let unfinished: Task | undefined = task
    let hasThrown = true
    try {
      if (shortcut?.serve(this.#turn) === true || !task.run(this.#turn)) unfinished = undefined
      hasThrown = false
    } finally {
      if (hasThrown) this.#leave(task)
    }
    if (this.#state === RUNNING && unfinished === undefined) {
      this.#state = 0
      return
    }
    if (unfinished !== undefined) this.#unfinished.add(unfinished)
    this.#run(this.#turn, undefined)
  }

  #doBesides(task: Task): void {
    if (!this.#mayRun()) return this.add(task)
    this.drop(task)
    this.#turn.begin()
    this.#run(this.#turn, task)
  }

  /** Runs the tasks that are waiting. */
  go(): void {
    if (!this.#mayRun()) return
    this.#turn.begin()
    this.#run(this.#turn, undefined)
  }

  /** Queues `task`. The caller then calls `go`, `wake` or `soon`. */
  add(task: Task): void {
    this.#ready.add(task)
    this.#state |= READY
  }

  /** Runs the tasks that are waiting, when a promise has woken one. */
  wake(): void {
    if (!this.#mayRun()) return
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
    if (this.#mayRun()) this.#schedule()
  }

  /**
   * Calls `ended` at the end of this turn, or of the next one. (Calling it after every turn would slow a kick of one request by a tenth,
   * measured.)
   */
  awaitEnd(): void {
    this.#state |= END_AWAITED
  }

  /** Removes `task`. */
  drop(task: Task): void {
    this.#ready.delete(task)
    this.#unfinished.delete(task)
    if (this.#ready.size === 0) this.#state &= ~READY
  }

  #mayRun(): boolean {
    return (this.#state & (RUNNING | CLOSED)) === 0
  }

  /** Runs `first`, and the tasks that are waiting. */
  #run(turn: Turn, first: Task | undefined): void {
    this.#state |= RUNNING
    let current = first
    try {
      if (current?.run(turn) === true) this.#unfinished.add(current)
      current = undefined
      while (this.#ready.size > 0 && !turn.over && this.open) {
        current = this.#takeNext()
        if (current?.run(turn) === true) this.#unfinished.add(current)
        turn.spend(TASK_WEIGHT, 0)
        current = undefined
      }
    } finally {
      this.#leave(current)
    }
    if ((this.#state & END_AWAITED) === 0) return
    this.#state &= ~END_AWAITED
    this.#ended()
  }

  #takeNext(): Task | undefined {
    const [next] = this.#ready
    if (next !== undefined) this.#ready.delete(next)
    return next
  }

  /**
   * Ends the turn, and leaves the remaining tasks to the next one, even after an exception of the embedder's interrupt handler, or of a
   * backing with a bug: nothing may wait for ever. `thrown`: the task that has thrown. It runs again, because it has not said that it is
   * done.
   */
  #leave(thrown: Task | undefined): void {
    if (thrown !== undefined) this.#unfinished.add(thrown)
    for (const task of this.#unfinished) this.#ready.add(task)
    this.#unfinished.clear()
    const rest = this.#ready.size > 0
    this.#state = (this.#state & (CLOSED | END_AWAITED)) | (rest ? READY : 0)
    if (rest && this.open) this.#schedule()
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
