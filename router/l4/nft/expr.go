//go:build linux

package nft

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// rule is what one rule of a chain does. Expressions work on registers of four
// bytes, which no rule shares with the next.
type rule []expr.Any

// reg0 is the first register of four bytes.
const reg0 = unix.NFT_REG32_00

// seq joins the parts of a rule.
func seq(parts ...rule) rule {
	var out rule
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// field is something that a rule can load from a packet.
type field struct {
	load func(reg uint32) expr.Any
	regs uint32 // registers that it fills
	mask []byte // nil: all bits
}

func payload(base expr.PayloadBase, offset, length uint32) field {
	return field{load: func(reg uint32) expr.Any {
		return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: base, Offset: offset, Len: length}
	}, regs: (length + 3) / 4}
}

func meta(key expr.MetaKey) field {
	return field{load: func(reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }, regs: 1}
}

var (
	protocol = meta(expr.MetaKeyL4PROTO)
	priority = meta(expr.MetaKeyPRIORITY)
	mark     = meta(expr.MetaKeyMARK)
	status   = field{load: func(reg uint32) expr.Any { return &expr.Ct{Key: expr.CtKeySTATUS, Register: reg} }, regs: 1}
	dport    = payload(expr.PayloadBaseTransportHeader, 2, 2)
)

func (f *family) saddr() field {
	if f.ipv6 {
		return payload(expr.PayloadBaseNetworkHeader, 8, 16)
	}
	return payload(expr.PayloadBaseNetworkHeader, 12, 4)
}

func (f *family) daddr() field {
	if f.ipv6 {
		return payload(expr.PayloadBaseNetworkHeader, 24, 16)
	}
	return payload(expr.PayloadBaseNetworkHeader, 16, 4)
}

// random is a number below n.
func random(n uint32) field {
	return field{load: func(reg uint32) expr.Any {
		return &expr.Numgen{Register: reg, Modulus: n, Type: unix.NFT_NG_RANDOM}
	}, regs: 1}
}

// isLocal says for an address of the packet what kind it is, as the routing
// tables see it.
func addrType(source bool) field {
	return field{load: func(reg uint32) expr.Any {
		return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: source, FlagDADDR: !source}
	}, regs: 1}
}

// load puts fields into registers, one after another from the first.
func load(fields ...field) rule {
	var out rule
	reg := uint32(reg0)
	for _, f := range fields {
		out = append(out, f.load(reg))
		if f.mask != nil {
			out = append(out, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(f.mask)), Mask: f.mask, Xor: make([]byte, len(f.mask))})
		}
		reg += f.regs
	}
	return out
}

// lookup replaces the loaded key by what a map holds for it; the rule ends if
// there is nothing.
func lookup(s *nftables.Set, fields ...field) rule {
	return append(load(fields...), &expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
}

// dispatch goes where a map of verdicts leads.
func dispatch(s *nftables.Set, key rule) rule {
	return append(key, &expr.Lookup{SourceRegister: reg0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
}

// in ends the rule unless a set holds the key.
func in(s *nftables.Set, fields ...field) rule {
	return append(load(fields...), &expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID})
}

// notIn ends the rule if a set holds the key.
func notIn(s *nftables.Set, fields ...field) rule {
	return append(load(fields...), &expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID, Invert: true})
}

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg0, Data: data}
}

func is(f field, data []byte) rule    { return append(load(f), compare(expr.CmpOpEq, data)) }
func isNot(f field, data []byte) rule { return append(load(f), compare(expr.CmpOpNeq, data)) }

// word is a number in the byte order of this machine, as marks, priorities and
// random numbers lie in registers.
func word(v value) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

// maskedField is the bits of a field of four bytes that are in a mask.
func maskedField(f field, mask value) field {
	return field{load: f.load, mask: word(mask), regs: 1}
}

// masked loads the bits of a field of four bytes that are in a mask.
func masked(f field, mask value) rule { return load(maskedField(f, mask)) }

// bits ends the rule unless the bits in the mask are as in want.
func bits(f field, mask, want value) rule {
	return append(masked(f, mask), compare(expr.CmpOpEq, word(want)))
}

// anyBits ends the rule if none of the bits is set.
func anyBits(f field, mask value) rule {
	return append(masked(f, mask), compare(expr.CmpOpNeq, word(0)))
}

// inPrefix ends the rule unless an address is in a range.
func inPrefix(f field, network, mask []byte) rule {
	return append(load(f),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		compare(expr.CmpOpEq, network))
}

// setPriority stores the register as the packet's priority.
func setPriority() rule {
	return rule{&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: reg0}}
}

// clearPriority makes the packet's priority what it is by default.
func clearPriority() rule {
	return append(rule{&expr.Immediate{Register: reg0, Data: word(0)}}, setPriority()...)
}

// forgetPriority does so in a rule that goes on with what it has looked up.
func (f *family) forgetPriority() rule {
	after := reg0 + f.daddr().regs + 1
	return rule{&expr.Immediate{Register: after, Data: word(0)}, &expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: after}}
}

// keepOperand leaves only the operand of a value in the packet's priority, with a
// tag of other bits.
func keepOperand(tag value) rule {
	return seq(load(priority), rule{&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: word(operandMask), Xor: word(tag)}}, setPriority())
}

// changeMark sets or clears a bit of the packet's mark.
func changeMark(bit uint32, set bool) rule {
	x := value(0)
	if set {
		x = value(bit)
	}
	return append(load(mark),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: word(^value(bit)), Xor: word(x)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg0})
}

func jump(chain string) rule { return rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
func goTo(chain string) rule { return rule{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }
func drop() rule             { return rule{&expr.Verdict{Kind: expr.VerdictDrop}} }
func leave() rule            { return rule{&expr.Verdict{Kind: expr.VerdictReturn}} }
func masquerade() rule       { return rule{&expr.Masq{FullyRandom: true}} }

// dnat sends the connection to the address and port in the registers.
func (f *family) dnat() rule {
	return rule{&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.table.Family), RegAddrMin: reg0, RegProtoMin: reg0 + f.daddr().regs}}
}

// reject answers that nobody listens.
func (f *family) reject() []rule {
	code := uint8(3) // ICMP: port unreachable
	if f.ipv6 {
		code = 4 // ICMPv6: port unreachable
	}
	return []rule{
		seq(is(protocol, []byte{byte(l4.TCP)}), rule{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}},
	}
}
