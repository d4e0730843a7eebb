/** A v86 machine whose guest has its console on the serial line, where a test waits for output and types commands. */
import { pathToFileURL } from "node:url"
import { join } from "node:path"
import { firmware, v86Package } from "./packages.ts"

/** The part of v86's interface that the tests use. */
export interface Emulator {
  readonly v86: unknown
  add_listener(event: string, listener: (value: never) => void): void
  run(): Promise<void> | void
  stop(): Promise<void> | void
  is_running(): boolean
  get_instruction_counter(): number
  restart(): void
  destroy(): Promise<void> | void
  save_state(): Promise<ArrayBuffer>
  restore_state(state: ArrayBuffer): Promise<void>
  serial0_send(text: string): void
}

export interface GuestOptions {
  /** Options for v86's constructor, firmware and memory apart. */
  readonly v86?: Readonly<Record<string, unknown>>
  readonly memory?: number
  /** Called with the new emulator before the first instruction, to attach devices. */
  readonly attach?: (emulator: Emulator) => void
  /** Gets everything that the guest prints. */
  readonly log?: (text: string) => void
}

export class Guest {
  readonly emulator: Emulator
  #output = ""
  #read = 0
  #waiting: (() => void) | undefined

  private constructor(emulator: Emulator, log: (text: string) => void) {
    this.emulator = emulator
    emulator.add_listener("serial0-output-byte", (byte: number) => {
      const character = String.fromCharCode(byte)
      this.#output += character
      log(character)
      this.#waiting?.()
    })
  }

  static async start(options: GuestOptions): Promise<Guest> {
    const folder = join(v86Package(), "build")
    const { V86 } = await import(pathToFileURL(join(folder, "libv86.mjs")).href) as { V86: new (options: unknown) => Emulator }
    const { bios, vgaBios } = firmware()
    const emulator = new V86({
      wasm_path: join(folder, "v86.wasm"), bios: { buffer: bios }, vga_bios: { buffer: vgaBios }, autostart: false,
      memory_size: options.memory ?? 256 << 20, vga_memory_size: 2 << 20, disable_speaker: true, ...options.v86,
    })
    const guest = new Guest(emulator, options.log ?? (() => undefined))
    const loaded = new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()))
    options.attach?.(emulator)
    await loaded
    await emulator.run()
    return guest
  }

  /** All output since the start. */
  get output(): string {
    return this.#output
  }

  /**
   * Waits until the output matches, and consumes it up to the end of the match, which it returns. Only the test's time limit ends the wait.
   */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.#output.slice(this.#read))
      if (match !== null) {
        this.#read += match.index + match[0].length
        return match
      }
      await new Promise<void>((resolve) => {
        this.#waiting = resolve
      })
    }
  }

  /** Runs a command in the shell of our initramfs and returns what it printed. An exit status other than 0 is an error. */
  async command(line: string): Promise<string> {
    const start = this.#read
    this.emulator.serial0_send(`{ ${line}; } 2>&1; echo VIOBLK-STATUS=$?\n`)
    const [, status] = await this.expect(/VIOBLK-STATUS=(\d+)\s/)
    const text = this.#output.slice(start, this.#output.lastIndexOf("VIOBLK-STATUS=", this.#read)).replaceAll("\r", "").trim()
    if (status !== "0") throw new Error(`in the guest: ${line}: exit status ${status}\n${text}`)
    return text
  }

  async stop(): Promise<void> {
    await this.emulator.stop()
    await this.emulator.destroy()
  }
}
