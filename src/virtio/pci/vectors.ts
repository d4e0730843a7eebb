/** Vectors: the MSI-X vectors of configuration changes and of each queue ([VIRTIO] 4.1.5.1.2). */

/** No vector is mapped. */
export const NO_VECTOR = 0xffff

export class Vectors {
  readonly #queues: Uint16Array
  /** Vectors in the table. */
  readonly #count: number = 0
  #config: number = NO_VECTOR

  constructor({ queues, vectors }: { readonly queues: number; readonly vectors: number }) {
    this.#queues = new Uint16Array(queues).fill(NO_VECTOR)
    this.#count = vectors
  }

  get config(): number {
    return this.#config
  }

  set config(vector: number) {
    this.#config = this.#existing(vector)
  }

  queue(index: number): number {
    return this.#queues[index] ?? NO_VECTOR
  }

  setQueue(index: number, vector: number): void {
    if (index < this.#queues.length) this.#queues[index] = this.#existing(vector)
  }

  reset(): void {
    this.#queues.fill(NO_VECTOR)
    this.#config = NO_VECTOR
  }

  /** Of configuration changes, then of each queue. */
  get all(): readonly number[] {
    return [this.#config, ...this.#queues]
  }

  set all([config = NO_VECTOR, ...queues]: readonly number[]) {
    this.config = config
    for (const [index, vector] of queues.entries()) this.setQueue(index, vector)
  }

  /** A vector outside the table cannot be mapped, and reads back as NO_VECTOR. */
  #existing(vector: number): number {
    return vector < this.#count ? vector : NO_VECTOR
  }
}
