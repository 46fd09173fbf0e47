// The errors, by the names of errno that pgherald.h has.

const texts = {
  EACCES: "the relay's operator does not allow it",
  E2BIG: "an option is set that this version does not know",
  EBADMSG: "the cursor is malformed",
  EBUSY: "the relay's queue is full",
  ECANCELED: "canceled",
  EDQUOT: "the relay's limit of subscriptions is reached",
  EILSEQ: "a string is not valid Unicode, or contains a NUL",
  EINVAL: "invalid argument",
  EMSGSIZE: "too long",
  ENAMETOOLONG: "the socket path is too long",
  ENOBUFS: "the queue of requests is full",
  ENOENT: "no such subscription",
  ENXIO: "the relay does not serve this channel, or the channel is of the other kind",
  EPROTO: "the relay refused it",
  EREMOTEIO: "PostgreSQL refused it",
  ESHUTDOWN: "the client was closed",
  ETIMEDOUT: "not known to be published in time",
};

export class PgheraldError extends Error {
  constructor(code, text) {
    super(text ?? texts[code]);
    this.name = "PgheraldError";
    this.code = code;
  }
}

const codes = new Map([
  ["channel", "ENXIO"],
  ["denied", "EACCES"],
  ["invalid", "EILSEQ"],
  ["too-long", "EMSGSIZE"],
  ["limit", "EDQUOT"],
  ["busy", "EBUSY"],
  ["timeout", "ETIMEDOUT"],
  ["rejected", "EREMOTEIO"],
]);

// The error for an ERROR of the relay. A code of a later version is EPROTO.
export function errorOf(code, text) {
  return new PgheraldError(codes.get(code) ?? "EPROTO", text);
}
