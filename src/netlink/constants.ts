/** Kernel spellings, so that a search of the kernel headers finds them. Only what is used, here or by the tests. */

// linux/netlink.h
export const NETLINK_ROUTE = 0
export const NETLINK_NETFILTER = 12
export const NETLINK_GENERIC = 16
export const SOL_NETLINK = 270
export const NETLINK_ADD_MEMBERSHIP = 1
export const NETLINK_CAP_ACK = 10
export const NETLINK_EXT_ACK = 11
export const NETLINK_GET_STRICT_CHK = 12

export const NLMSG_NOOP = 1
export const NLMSG_ERROR = 2
export const NLMSG_DONE = 3
export const NLMSG_OVERRUN = 4

export const NLM_F_REQUEST = 0x01
export const NLM_F_MULTI = 0x02
export const NLM_F_ACK = 0x04
export const NLM_F_DUMP_INTR = 0x10
/** Of a request that changes something. */
export const NLM_F_REPLACE = 0x100
export const NLM_F_EXCL = 0x200
export const NLM_F_CREATE = 0x400
export const NLM_F_APPEND = 0x800
/** Of a request that asks: NLM_F_ROOT | NLM_F_MATCH. */
export const NLM_F_DUMP = 0x300
/** Of an acknowledgement. */
export const NLM_F_CAPPED = 0x100
export const NLM_F_ACK_TLVS = 0x200

export const NLMSGERR_ATTR_MSG = 1

export const NLA_F_NESTED = 0x8000
export const NLA_TYPE_MASK = 0x3fff

// linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_H | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
export const BPF_LD_W_ABS = 0x20
export const BPF_LD_H_ABS = 0x28
export const BPF_JEQ_K = 0x15
export const BPF_RET_K = 0x06

// linux/socket.h
export const AF_UNSPEC = 0
export const AF_INET = 2
export const AF_BRIDGE = 7
export const AF_INET6 = 10

// linux/rtnetlink.h
export const RTM_NEWLINK = 16
export const RTM_DELLINK = 17
export const RTM_GETLINK = 18
export const RTM_NEWADDR = 20
export const RTM_DELADDR = 21
export const RTM_GETADDR = 22
export const RTM_NEWROUTE = 24
export const RTM_DELROUTE = 25
export const RTM_GETROUTE = 26
export const RTM_NEWNEIGH = 28
export const RTM_DELNEIGH = 29
export const RTM_GETNEIGH = 30
export const RTM_NEWNEXTHOP = 104
export const RTM_DELNEXTHOP = 105
export const RTM_GETNEXTHOP = 106

export const RTNLGRP_LINK = 1
export const RTNLGRP_NEIGH = 3
export const RTNLGRP_IPV4_IFADDR = 5
export const RTNLGRP_IPV4_ROUTE = 7
export const RTNLGRP_NEXTHOP = 32

export const RT_TABLE_MAIN = 254
export const RTPROT_KERNEL = 2
export const RTPROT_BOOT = 3
export const RT_SCOPE_UNIVERSE = 0
export const RT_SCOPE_LINK = 253
export const RTN_UNICAST = 1
export const RTNH_F_ONLINK = 4
export const RTM_F_CLONED = 0x200
export const RTM_F_LOOKUP_TABLE = 0x1000

export const RTA_DST = 1
export const RTA_OIF = 4
export const RTA_GATEWAY = 5
export const RTA_PRIORITY = 6
export const RTA_PREFSRC = 7
export const RTA_MULTIPATH = 9
export const RTA_TABLE = 15
export const RTA_NH_ID = 30

// linux/nexthop.h
export const NHA_ID = 1
export const NHA_OIF = 5
export const NHA_GATEWAY = 6

// linux/if_link.h, linux/if.h
export const IFF_UP = 1
/** Up, and with a carrier. */
export const IFF_RUNNING = 0x40

export const IFLA_ADDRESS = 1
export const IFLA_IFNAME = 3
export const IFLA_MTU = 4
export const IFLA_LINK = 5
export const IFLA_MASTER = 10
export const IFLA_TXQLEN = 13
export const IFLA_LINKINFO = 18
export const IFLA_EXT_MASK = 29
export const IFLA_PROTO_DOWN = 39
export const RTEXT_FILTER_SKIP_STATS = 8

export const IFLA_INFO_KIND = 1
export const IFLA_INFO_DATA = 2

export const IFLA_VXLAN_ID = 1
export const IFLA_VXLAN_GROUP = 2
export const IFLA_VXLAN_LINK = 3
export const IFLA_VXLAN_LOCAL = 4
export const IFLA_VXLAN_TTL = 5
export const IFLA_VXLAN_TOS = 6
export const IFLA_VXLAN_LEARNING = 7
export const IFLA_VXLAN_AGEING = 8
export const IFLA_VXLAN_PROXY = 11
export const IFLA_VXLAN_RSC = 12
export const IFLA_VXLAN_L2MISS = 13
export const IFLA_VXLAN_L3MISS = 14
export const IFLA_VXLAN_PORT = 15
export const IFLA_VXLAN_GROUP6 = 16
export const IFLA_VXLAN_GBP = 23

// linux/if_tunnel.h
export const IFLA_IPTUN_LOCAL = 2
export const IFLA_IPTUN_REMOTE = 3
export const IFLA_IPTUN_TTL = 4
export const IFLA_IPTUN_TOS = 5
export const IFLA_IPTUN_PMTUDISC = 10

// linux/if_addr.h
export const IFA_ADDRESS = 1
export const IFA_LOCAL = 2
export const IFA_LABEL = 3
export const IFA_BROADCAST = 4
export const IFA_FLAGS = 8
export const IFA_F_PERMANENT = 0x80

// linux/neighbour.h
export const NDA_DST = 1
export const NDA_LLADDR = 2
export const NDA_PORT = 6
export const NDA_VNI = 7
export const NDA_IFINDEX = 8

export const NTF_SELF = 0x02

export const NUD_REACHABLE = 0x02
export const NUD_STALE = 0x04
export const NUD_FAILED = 0x20
export const NUD_NOARP = 0x40
export const NUD_PERMANENT = 0x80

// linux/netfilter/nfnetlink.h: enum nfnetlink_groups
export const NFNLGRP_NFTABLES = 7
/** The message type of a subsystem of nfnetlink is its number, shifted, and its own type. */
export const NFNL_SUBSYS_NFTABLES = 10 << 8
export const NFT_MSG_GETGEN = 16
export const NFTA_GEN_ID = 1

// linux/genetlink.h
export const GENL_ID_CTRL = 0x10
export const CTRL_CMD_GETFAMILY = 3
export const CTRL_ATTR_FAMILY_ID = 1
export const CTRL_ATTR_FAMILY_NAME = 2

// linux/wireguard.h
export const WG_CMD_GET_DEVICE = 0
export const WG_CMD_SET_DEVICE = 1

export const WGDEVICE_A_IFINDEX = 1
export const WGDEVICE_A_PRIVATE_KEY = 3
export const WGDEVICE_A_PUBLIC_KEY = 4
export const WGDEVICE_A_LISTEN_PORT = 6
export const WGDEVICE_A_PEERS = 8

export const WGPEER_A_PUBLIC_KEY = 1
export const WGPEER_A_PRESHARED_KEY = 2
export const WGPEER_A_FLAGS = 3
export const WGPEER_A_ENDPOINT = 4
export const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL = 5
export const WGPEER_A_LAST_HANDSHAKE_TIME = 6
export const WGPEER_A_ALLOWEDIPS = 9
export const WGPEER_F_REMOVE_ME = 1
export const WGPEER_F_REPLACE_ALLOWEDIPS = 2

export const WGALLOWEDIP_A_FAMILY = 1
export const WGALLOWEDIP_A_IPADDR = 2
export const WGALLOWEDIP_A_CIDR_MASK = 3
