/** A disk that a BIOS boots from: its boot sector reads a text from the disk, and shows it. */

const SECTOR = 512
/** The place of the text, and its maximum length. */
export const TEXT = { SECTOR: 16, SECTORS: 8 } as const
const FAILED = "INT 13h failed\r\n\0"

/**
 * Real-mode code at 0x7C00: reads 8 sectors from sector 16 to 0x8000 (int 13h, AH=42h) and shows that text on the screen (int 10h,
 * AH=0Eh) and on COM1; then it halts.
 */
const CODE = [
  "fa 31c0 8ed8 8ec0 8ed0 bc007c fb fc", //         cli; ds = es = ss = 0; sp = 0x7C00; sti; cld
  "be477c b442 cd13 7209", //                       si = packet; ah = 42h; int 13h; jc failed
  "be0080 e80b00", //                               si = 0x8000; call show
  "f4 ebfd", //                                     halt
  "be577c e80200 ebf5", //                          failed: si = its text; call show; jmp halt
  "ac 84c0 7419 88c3", //                           show: the next byte, up to a zero, goes
  "bafd03 ec a820 74fb 88d8 baf803 ee", //          to COM1, when the line status says empty,
  "b40e bb0700 cd10 ebe2 c3", //                    and to the screen
  "1000 0800 0080 0000 1000000000000000", //        packet: 8 sectors, to 0000:8000, from sector 16
].join("").replaceAll(" ", "")

/** The partition after the text, for programs that list partitions. Type 0xDA means "no file system". */
const PARTITION = { ENTRY: 446, START: 2048, SECTORS: 2048, TYPE: 0xda } as const

/** Bytes of the disk. */
export const DEMO_SIZE = (PARTITION.START + PARTITION.SECTORS) * SECTOR

/** The beginning of the disk; the rest is zeroes. `text`: less than 4096 bytes of ASCII, lines ending in "\n". */
export function bootSectors(text: string): Uint8Array {
  const disk = new Uint8Array((TEXT.SECTOR + TEXT.SECTORS) * SECTOR)
  const view = new DataView(disk.buffer)
  disk.set(bytesOf(CODE.replace(/../g, (hex) => String.fromCharCode(Number.parseInt(hex, 16))) + FAILED))
  disk[PARTITION.ENTRY] = 0x80
  disk[PARTITION.ENTRY + 4] = PARTITION.TYPE
  view.setUint32(PARTITION.ENTRY + 8, PARTITION.START, true)
  view.setUint32(PARTITION.ENTRY + 12, PARTITION.SECTORS, true)
  disk.set([0x55, 0xaa], SECTOR - 2)
  disk.set(bytesOf(`${text.replaceAll("\n", "\r\n")}\0`).subarray(0, TEXT.SECTORS * SECTOR - 1), TEXT.SECTOR * SECTOR)
  return disk
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0))
}
