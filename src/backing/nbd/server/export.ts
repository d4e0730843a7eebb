/** Exports: the disks that a server offers, with their names and flags. */
import { checkBacking, type VirtioBacking } from "../../backing.ts"
import { checkOptions, checkValue, type Rules } from "../../../options.ts"
import { NBD_FLAG_T, NBD_LIMIT } from "../protocol.ts"
import { encodeText } from "../../bytes/fields.ts"

/** A disk that an `NbdServer` offers. */
export interface NbdExport {
  /** Its name for clients. Default "", the default export. */
  readonly name?: string
  /** The caller keeps owning it: the server does not close it, and flushes it only for clients. */
  readonly backing: VirtioBacking
  /** True: clients cannot write. Default: the backing's `readOnly`. */
  readonly readOnly?: boolean
  /** A description for lists of exports. */
  readonly description?: string
}

const NBD_EXPORT_RULES: Rules<NbdExport> = { name: "string?", backing: "object", readOnly: "boolean?", description: "string?" }

/** An export, checked. */
export class Export {
  readonly name: string
  readonly description: string
  readonly backing: VirtioBacking
  readonly readOnly: boolean

  /** @throws TypeError or RangeError with one line that says what is wrong */
  constructor(options: NbdExport) {
    checkOptions("NbdServer: exports", options, NBD_EXPORT_RULES)
    checkBacking("NbdServer", options.backing)
    const { name = "", description = "", backing } = options
    checkText("name", name)
    checkText("description", description)
    this.name = name
    this.description = description
    this.backing = backing
    this.readOnly = options.readOnly === true || backing.readOnly
  }

  /** The transmission flags: masks of `NBD_FLAG_T`. */
  flags(structured: boolean): number {
    const { backing, readOnly } = this
    const { HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, CAN_MULTI_CONN, SEND_FAST_ZERO } = NBD_FLAG_T
    // All clients share the one backing: a flush covers what each of them wrote.
    let flags: number = HAS_FLAGS | CAN_MULTI_CONN
    if (readOnly) flags |= READ_ONLY
    if (backing.flush !== undefined) flags |= SEND_FLUSH | SEND_FUA
    if (structured) flags |= SEND_DF
    if (!readOnly && backing.discard !== undefined && backing.canUnmap !== false) flags |= SEND_TRIM
    if (!readOnly && backing.writeZeroes !== undefined) flags |= SEND_WRITE_ZEROES | SEND_FAST_ZERO
    return flags
  }
}

function checkText(what: string, text: string): void {
  if (text.includes("\0")) throw new RangeError(`NbdServer: the ${what} of an export has a NUL character in it`)
  const { length } = encodeText(text)
  if (length > NBD_LIMIT.string) {
    throw new RangeError(`NbdServer: the ${what} of an export has ${length} bytes; the limit is ${NBD_LIMIT.string}`)
  }
}

/** All exports of a server, by name. */
export class ExportTable {
  readonly all: readonly Export[]

  /** @throws TypeError or RangeError with one line that says what is wrong */
  constructor(exports: readonly NbdExport[]) {
    if (exports.length === 0) throw new RangeError("NbdServer: exports is empty; there is nothing to serve")
    for (const each of exports) checkValue("NbdServer", "an export", each, "object")
    this.all = exports.map((each) => new Export(each))
    const names = this.all.map(({ name }) => name)
    const twice = names.find((name, index) => names.indexOf(name) !== index)
    if (twice !== undefined) throw new RangeError(`NbdServer: two exports are called "${twice}"`)
  }

  /** The export that a client names; "" also means the only one. */
  find(name: string): Export | undefined {
    const found = this.all.find((each) => each.name === name)
    return found ?? (name === "" && this.all.length === 1 ? this.all[0] : undefined)
  }
}
