/** Options of PagedFile. */

/** Options of `PagedFile.open`. */
export interface PagedFileOptions {
  /** Refuse all writes. Default: as in the source. */
  readonly readOnly?: boolean
  /** Bytes of memory for pages. Default 32 MiB; at least one page. Pages that running operations need are kept beyond that. */
  readonly cacheSize?: number
  /** Bytes of one page. Default 16 KiB. */
  readonly pageSize?: number
  /** Bytes of memory for changes that the source has not completed. Beyond that, `room` makes writers wait. Default 16 MiB. */
  readonly logSize?: number
}

export const PAGE_SIZE = 1 << 14
export const CACHE_SIZE = 32 << 20
export const LOG_SIZE = 16 << 20
