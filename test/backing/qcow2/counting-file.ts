/** An ImageFile that counts its calls: what tests of bounded time look at, for a clock would make them flicker. */
import { MemoryFile } from "../../support/memory-file.ts"

export class CountingFile extends MemoryFile {
  reads = 0
  readBytes = 0
  writes = 0
  writtenBytes = 0
  syncs = 0
  punches = 0

  /** A copy of `file`. */
  static over(file: MemoryFile): CountingFile {
    const counting = new CountingFile({ path: file.path })
    counting.adopt(file)
    return counting
  }

  /** Forgets what was counted, and calls `work`. */
  during(work: () => void): this {
    this.reads = this.readBytes = this.writes = this.writtenBytes = this.syncs = this.punches = 0
    work()
    return this
  }

  override read(buffer: Uint8Array, offset: number): number {
    this.reads++
    this.readBytes += buffer.length
    return super.read(buffer, offset)
  }

  override write(buffer: Uint8Array, offset: number): void {
    this.writes++
    this.writtenBytes += buffer.length
    super.write(buffer, offset)
  }

  override punchHole(offset: number, length: number): boolean {
    this.punches++
    return super.punchHole(offset, length)
  }

  override sync(): void {
    this.syncs++
    super.sync()
  }
}
