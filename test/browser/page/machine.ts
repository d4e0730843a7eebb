/** The v86 machine of the page. */
import { attachToV86, type V86Disk, type V86Emulator, type VirtioBacking } from "vioblk"

/** What the page uses of v86. */
export interface Emulator extends V86Emulator {
  add_listener(event: "emulator-ready" | "emulator-loaded", listener: () => void): void
  add_listener(event: "serial0-output-byte", listener: (byte: number) => void): void
  run(): Promise<void> | void
  stop(): Promise<void> | void
  destroy(): Promise<void> | void
  serial0_send(text: string): void
  /** Whether the guest's keyboard takes what is typed in the page. */
  keyboard_set_enabled(isEnabled: boolean): void
}

export interface MachineParts {
  readonly backing: VirtioBacking
  /** Where v86 draws the guest's screen: an element with a div and a canvas in it. */
  readonly screen: HTMLElement
  /** Gets each byte that the guest sends down its serial line. */
  readonly serial: (byte: number) => void
  /** Gets the errors of the disk. */
  readonly failed: (message: string) => void
}

export interface Machine {
  readonly emulator: Emulator
  readonly disk: V86Disk
}

/** Starts a machine with 256 MiB of RAM that boots from the disk. Its keyboard is off until somebody turns it on. */
export async function startMachine({ backing, screen, serial, failed }: MachineParts): Promise<Machine> {
  const module = "/v86/libv86.mjs"
  const { V86 } = await import(module) as { readonly V86: new (options: unknown) => Emulator }
  const emulator = new V86({
    wasm_path: "/v86/v86.wasm", memory_size: 256 << 20, vga_memory_size: 2 << 20, disable_speaker: true, autostart: false,
    bios: { url: "/firmware/bios.bin" }, vga_bios: { url: "/firmware/vgabios-stdvga.bin" },
    screen_container: screen,
  })
  const disk = attachToV86(emulator, backing, { serial: "demo", onError: (error) => failed(String(error)) })
  emulator.add_listener("serial0-output-byte", serial)
  await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()))
  emulator.keyboard_set_enabled(false)
  await emulator.run()
  return { emulator, disk }
}
