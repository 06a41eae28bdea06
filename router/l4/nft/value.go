//go:build linux

package nft

import (
	"math"
	"slices"

	"github.com/portico-ingress/portico/router/l4"
)

// value is what the maps of fronts lead to, and what travels in the packet's
// priority from one rule to the next:
//
//	bit  31      masquerade, unless the packet is a pod's
//	bit  30      masquerade
//	bits 29..20  the action: which chain goes on
//	bits 19..0   the action's operand: a pool, or a special front
type value uint32

const (
	masqueradeOthers value = 1 << 31
	masqueradeAll    value = 1 << 30
	actionMask       value = 0x3ff << operandBits
	operandBits            = 20
	operandMask      value = 1<<operandBits - 1
	// operandTag marks a priority that holds nothing but an operand. It tells
	// such priorities from those that other programs set, in postrouting.
	operandTag value = 0x7f << 24
	tagMask    value = ^operandMask
	// rangedBit in the operand of a special front: see special.
	rangedBit value = 1 << (operandBits - 1)
)

// Actions. Those from actPlain on choose from a pool of a size, those from
// actSticky on remember clients for a time.
const (
	actReject  value = 1
	actDrop    value = 2
	actSpecial value = 3
	actPlain   value = 8
	actSticky  value = 512
)

func (v value) with(action value) value { return v | action<<operandBits }

// operand returns the priority in which rules look up an operand.
func operand(id uint32) value { return operandTag | value(id) }

// sizes are the numbers of endpoints that there is a chain for: each up to 64,
// then four for each doubling, to a million. A pool whose size lies between
// two is asked by the larger, and asked again if the index was not taken.
var sizes = func() []uint32 {
	var out []uint32
	for n := uint32(1); n <= 64; n++ {
		out = append(out, n)
	}
	for base := uint32(64); base < maxPool; base *= 2 {
		for i := uint32(1); i <= 4; i++ {
			out = append(out, base+i*base/4)
		}
	}
	return out
}()

// maxPool is how many endpoints a pool may have.
const maxPool = 1 << operandBits

// exactSizes is how many of the sizes have no gap before them.
const exactSizes = 64

// class returns the index in sizes of a pool of n endpoints, n > 0.
func class(n int) int {
	i, _ := slices.BinarySearch(sizes, uint32(min(n, math.MaxInt32)))
	return min(i, len(sizes)-1)
}

// ruleValue is what a rule of a front leads to.
func ruleValue(r l4.Rule, cluster, local *pool) value {
	switch r.Verdict {
	case l4.ToCluster:
		return poolValue(cluster, r.Masquerade)
	case l4.ToLocal:
		return poolValue(local, r.Masquerade)
	case l4.Drop:
		return value(0).with(actDrop)
	}
	return value(0).with(actReject)
}

func poolValue(p *pool, masquerade bool) value {
	v := p.value()
	if masquerade {
		v |= masqueradeAll
	}
	return v
}
