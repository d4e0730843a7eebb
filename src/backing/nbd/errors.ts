/** NBD's error values and ours: what each becomes on the other side. */
import type { BackingErrorCode } from "../backing.ts"
import { NBD_ERROR } from "./protocol.ts"

/** What a server answers for each way in which a disk fails. [NBD] "Error values" knows eight numbers. */
const ERROR_BY_CODE: Readonly<Record<BackingErrorCode, number>> = {
  io: NBD_ERROR.EIO, "no-space": NBD_ERROR.ENOSPC, "out-of-bounds": NBD_ERROR.EINVAL, "read-only": NBD_ERROR.EPERM,
  corrupt: NBD_ERROR.EIO, "invalid-format": NBD_ERROR.EIO, unsupported: NBD_ERROR.EINVAL, "not-found": NBD_ERROR.EIO,
  exists: NBD_ERROR.EIO, permission: NBD_ERROR.EPERM, busy: NBD_ERROR.EIO, closed: NBD_ERROR.ESHUTDOWN,
  "invalid-argument": NBD_ERROR.EINVAL, "zone-invalid": NBD_ERROR.EINVAL, "zone-unaligned": NBD_ERROR.EINVAL,
  "zone-open-limit": NBD_ERROR.EINVAL, "zone-active-limit": NBD_ERROR.EINVAL,
}

const CODE_BY_ERROR: ReadonlyMap<number, { readonly code: BackingErrorCode; readonly reason: string }> = new Map([
  [NBD_ERROR.EPERM, { code: "permission", reason: "operation not permitted" }],
  [NBD_ERROR.EIO, { code: "io", reason: "input/output error" }],
  [NBD_ERROR.ENOMEM, { code: "io", reason: "the server is out of memory" }],
  [NBD_ERROR.EINVAL, { code: "invalid-argument", reason: "invalid argument" }],
  [NBD_ERROR.ENOSPC, { code: "no-space", reason: "no space left on the server" }],
  [NBD_ERROR.EOVERFLOW, { code: "invalid-argument", reason: "the request is too large" }],
  [NBD_ERROR.ENOTSUP, { code: "unsupported", reason: "operation not supported" }],
  [NBD_ERROR.ESHUTDOWN, { code: "io", reason: "the server is shutting down" }],
])

/** The value of `NBD_ERROR` for a `BackingError`'s code. */
export function nbdErrorOf(code: BackingErrorCode): number {
  return ERROR_BY_CODE[code]
}

/** Our code for an error value, and its meaning in words. An unknown value counts as EINVAL: [NBD] "Error values". */
export function backingCodeOf(error: number): { readonly code: BackingErrorCode; readonly reason: string } {
  return CODE_BY_ERROR.get(error) ?? { code: "invalid-argument", reason: `error ${error}` }
}
