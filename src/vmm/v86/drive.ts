/**
 * Reports errors to the drive of a v86 machine. v86 has no errors of disks: an unanswered command hangs until the guest's timeout. This
 * file ends it with the error that hardware would report.
 */

/** The members of v86's IDE drive (IDEInterface) that we use, as named in its published build (0.5.462). */
interface IdeDrive {
  readonly buffer: unknown
  readonly is_atapi: boolean
  current_command: number
  status_reg: number
  error_reg: number
  readonly channel: { dma_status: number }
  cancel_io_operations(): void
  push_irq(): void
  atapi_check_condition_response(senseKey: number, additionalSense: number): void
}

/** And of its floppy controller. */
interface FloppyController {
  readonly drives: readonly { readonly buffer: unknown }[]
  end_read_write(status0: number, status1: number, status2: number): void
}

const ATA_COMMAND = { WRITE_DMA: 0xca, WRITE_DMA_EXT: 0x35 } as const
/** Status: DRDY and ERR. Error: uncorrectable data, or aborted command. [ATA8-ACS] 6 */
const ATA_STATUS = 0x41
const ATA_ERROR = { read: 0x40, write: 0x04 } as const
/** Bus master IDE status: a transfer is in progress; one has failed. */
const DMA = { ACTIVE: 1, ERROR: 2 } as const
/** SCSI sense: medium error, unrecovered read error. */
const SENSE = { KEY: 3, ADDITIONAL: 0x11 } as const
/** Floppy status: abnormal termination; data error; data error in the data field. */
const FLOPPY = { STATUS0: 0x40, STATUS1: 0x20, STATUS2: 0x20 } as const

/** A drive that can report errors to its guest. */
export interface V86Drive {
  /** True while the guest waits for a write. It does not wait for writes of programmed I/O, which v86 acknowledges at once. */
  readonly awaitsWrite: boolean
  /** Ends the guest's command with an error. */
  fail(kind: "read" | "write"): void
}

/** The drive of `disk`; undefined if it is in none. `emulator` is a `V86` object. */
export function findDrive(emulator: unknown, disk: object): V86Drive | undefined {
  const devices = member(member(member(emulator, "v86"), "cpu"), "devices")
  const ide = member(devices, "ide")
  for (const channel of [member(ide, "primary"), member(ide, "secondary")]) {
    for (const drive of [member(channel, "master"), member(channel, "slave")]) {
      if (member(drive, "buffer") === disk && isIdeDrive(drive)) return ideDrive(drive)
    }
  }
  const floppies = member(devices, "fdc")
  return isFloppyController(floppies) && floppies.drives.some(({ buffer }) => buffer === disk) ? floppyDrive(floppies) : undefined
}

function ideDrive(drive: IdeDrive): V86Drive {
  const { channel } = drive
  return {
    get awaitsWrite(): boolean {
      const { current_command: command } = drive
      return (command === ATA_COMMAND.WRITE_DMA || command === ATA_COMMAND.WRITE_DMA_EXT) && (channel.dma_status & DMA.ACTIVE) !== 0
    },
    fail: (kind) => {
      drive.cancel_io_operations()
      channel.dma_status = (channel.dma_status & ~DMA.ACTIVE) | DMA.ERROR
      if (drive.is_atapi) {
        drive.atapi_check_condition_response(SENSE.KEY, SENSE.ADDITIONAL)
      } else {
        drive.status_reg = ATA_STATUS
        drive.error_reg = ATA_ERROR[kind]
        drive.current_command = -1
      }
      drive.push_irq()
    },
  }
}

function floppyDrive(controller: FloppyController): V86Drive {
  // v86 acknowledges a floppy's write only after it is done.
  return { awaitsWrite: true, fail: () => controller.end_read_write(FLOPPY.STATUS0, FLOPPY.STATUS1, FLOPPY.STATUS2) }
}

function isIdeDrive(value: unknown): value is IdeDrive {
  const methods = ["cancel_io_operations", "push_irq", "atapi_check_condition_response"]
  return methods.every((name) => typeof member(value, name) === "function") &&
    typeof member(member(value, "channel"), "dma_status") === "number"
}

function isFloppyController(value: unknown): value is FloppyController {
  return typeof member(value, "end_read_write") === "function" && Array.isArray(member(value, "drives"))
}

function member(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined
}
