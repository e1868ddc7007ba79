import { NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSGERR_ATTR_MSG } from './constants.ts'
import { AttributeReader, align, getU32, type NetlinkMessage, NLMSG_HDRLEN } from './wire.ts'

/** What NLMSG_ERROR and NLMSG_DONE say. */
export interface Ack {
  /** Positive; 0 is success. */
  readonly errno: number
  /** The text of the extended acknowledgement. */
  readonly text: string | undefined
}

const EBADMSG = 74

/** struct nlmsgerr { int error; struct nlmsghdr msg; }, the rest of the request unless NLM_F_CAPPED, attributes. */
export function decodeError({ payload, flags }: NetlinkMessage): Ack {
  if (payload.length < 4 + NLMSG_HDRLEN) return { errno: EBADMSG, text: undefined }
  const echoed = (flags & NLM_F_CAPPED) !== 0 ? NLMSG_HDRLEN : align(getU32(payload, 4))
  return decodeAck(payload, flags, 4 + echoed)
}

/** The end of a dump: an int that is 0 or negative, and attributes. Kernels before 2.6.13 sent it empty. */
export function decodeDone({ payload, flags }: NetlinkMessage): Ack {
  return payload.length < 4 ? { errno: 0, text: undefined } : decodeAck(payload, flags, 4)
}

function decodeAck(payload: Uint8Array, flags: number, attributesAt: number): Ack {
  const errno = Math.abs(getU32(payload, 0) | 0)
  let text: string | undefined
  if ((flags & NLM_F_ACK_TLVS) !== 0) {
    const attributes = new AttributeReader().begin(payload, attributesAt)
    while (attributes.next()) if (attributes.type === NLMSGERR_ATTR_MSG) text = attributes.string()
  }
  return { errno, text }
}
