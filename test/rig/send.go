//go:build linux

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// Probe is one try: a connection that is opened, or a datagram that asks for an
// answer.
type Probe struct {
	Protocol    l4.Protocol // TCP or UDP
	Source      netip.Addr
	Destination netip.AddrPort
	// Quiet says that no answer is expected: silence is believed sooner.
	Quiet bool
}

const (
	// patience is how long an answer, or a refusal, is waited for: as long as a
	// slow machine may need.
	patience = 20 * time.Second
	// silence is how long a quiet probe is waited for after probes that were
	// sent later have been answered from behind the node. The handshake of a
	// connection needs no process, a datagram only one that was asleep.
	silence = 100 * time.Millisecond
	// together is how many probes are under way at a time: less than a queue of
	// the kernel has room for.
	together = 256
)

// controlPort is that of servers behind the node to which no Service leads: what
// is sent there is answered, or nothing is.
const controlPort = 9

// Send sends probes from one place, all at once, and returns what became of each
// in the words of l4.Outcome: "pass" if it reached whom it was sent to. Safe for
// concurrent use by different origins.
func (r *Rig) Send(from l4.Origin, probes ...Probe) ([]string, error) {
	var out []string
	var err error
	for chunk := range slices.Chunk(probes, together) {
		b := &burst{from: from, ports: &r.ports, open: map[int32]*try{}}
		r.Namespace(from).Do(func() { err = b.run(chunk) })
		if err != nil {
			return nil, fmt.Errorf("sending from %s: %w", from, err)
		}
		for _, t := range b.tries[:len(chunk)] {
			out = append(out, t.result)
		}
	}
	return out, nil
}

// ports gives every probe a port of its own, so that none is taken for a flow
// that the kernel remembers. They lie above those where portico-node and
// kube-proxy answer, and below NodePorts and those that the kernel gives.
type ports struct{ last atomic.Uint32 }

const firstPort, portCount = 11_000, 19_000

func (p *ports) next() int { return firstPort + int(p.last.Add(1)%portCount) }

// try is a probe under way.
type try struct {
	Probe
	fd     int
	result string // empty while it is open
	// connected is a TCP connection whose handshake is complete.
	connected bool
}

// burst are probes that are under way together.
type burst struct {
	from  l4.Origin
	ports *ports
	epoll int
	tries []*try // and after them the controls
	open  map[int32]*try
}

func (b *burst) run(probes []Probe) error {
	var err error
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(b.epoll)
	defer func() {
		for _, t := range b.open {
			_ = unix.Close(t.fd)
		}
	}()
	for _, p := range probes {
		if err := b.start(p); err != nil {
			return fmt.Errorf("%s to %s: %w", p.Source, p.Destination, err)
		}
	}
	if slices.ContainsFunc(probes, func(p Probe) bool { return p.Quiet }) {
		for _, p := range b.controls() {
			if err := b.start(p); err != nil {
				return fmt.Errorf("the control to %s: %w", p.Destination, err)
			}
		}
	}
	if err := b.wait(patience, func(t *try) bool { return !t.Quiet || t.connected }); err != nil {
		return err
	}
	for _, t := range b.tries[len(probes):] {
		if !strings.HasPrefix(t.result, t.Destination.String()) {
			return fmt.Errorf("nothing can be said of silence: the control to %s has got %q", t.Destination, t.result)
		}
	}
	if err := b.wait(silence, func(*try) bool { return true }); err != nil {
		return err
	}
	for _, t := range b.open {
		t.result = l4.Dropped.String()
		if t.connected {
			t.result = "error: connected, and no answer"
		}
	}
	return nil
}

// controls are sent last, by each protocol and family, to the other side of the
// node.
func (b *burst) controls() []Probe {
	to := PodsToNode
	if b.from == l4.Pod {
		to = OutsideToNode
	}
	var out []Probe
	for _, f := range families {
		for _, p := range []l4.Protocol{l4.TCP, l4.UDP} {
			out = append(out, Probe{Protocol: p, Destination: netip.AddrPortFrom(f.addr(to), controlPort)})
		}
	}
	return out
}

// start opens a probe's socket and sends.
func (b *burst) start(p Probe) error {
	t := &try{Probe: p}
	b.tries = append(b.tries, t)
	domain, kind := unix.AF_INET, unix.SOCK_STREAM
	if p.Destination.Addr().Is6() {
		domain = unix.AF_INET6
	}
	if p.Protocol == l4.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	t.fd = fd
	b.open[int32(fd)] = t
	if err := b.bind(t, domain == unix.AF_INET6); err != nil {
		return fmt.Errorf("binding: %w", err)
	}
	err = unix.Connect(fd, sockaddr(p.Destination))
	if err == nil && p.Protocol == l4.UDP {
		_, err = unix.Write(fd, []byte("?"))
	}
	// EPERM: the rules dropped the packet as it was sent. If it was refused, the
	// socket is told so as well.
	if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EPERM) {
		b.end(t, outcome(err))
		return nil
	}
	const events uint32 = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET
	return unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// bind gives a socket its source, also one of a range that is the namespace's.
func (b *burst) bind(t *try, ipv6 bool) error {
	level, freebind := unix.SOL_IP, unix.IP_FREEBIND
	source := t.Source
	if ipv6 {
		level, freebind = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	if !source.IsValid() {
		return nil
	}
	err := errors.Join(
		unix.SetsockoptInt(t.fd, level, freebind, 1),
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
	)
	if ipv6 {
		err = errors.Join(err, unix.SetsockoptInt(t.fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1))
	}
	if t.Protocol == l4.TCP { // reset at the end: nothing is remembered of it
		err = errors.Join(err, unix.SetsockoptLinger(t.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	return errors.Join(err, unix.Bind(t.fd, sockaddr(netip.AddrPortFrom(source, uint16(b.ports.next())))))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// wait takes results until none is open that counts, or the time is over.
func (b *burst) wait(most time.Duration, counts func(*try) bool) error {
	deadline := time.Now().Add(most)
	events := make([]unix.EpollEvent, together)
	for slices.ContainsFunc(b.tries, func(t *try) bool { return t.result == "" && counts(t) }) {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		n, err := unix.EpollWait(b.epoll, events, int(left/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if t := b.open[e.Fd]; t != nil {
				b.advance(t, e.Events)
			}
		}
	}
	return nil
}

// advance looks at what a socket has to say.
func (b *burst) advance(t *try, events uint32) {
	if events&unix.EPOLLERR != 0 {
		if err := t.fault(); err != nil {
			b.end(t, outcome(err))
			return
		}
	}
	t.connected = t.connected || t.Protocol == l4.TCP && events&unix.EPOLLOUT != 0
	if events&unix.EPOLLIN == 0 {
		return
	}
	var buf [128]byte
	switch n, err := unix.Read(t.fd, buf[:]); {
	case errors.Is(err, unix.EAGAIN):
	case err != nil:
		b.end(t, outcome(err))
	default:
		b.end(t, t.answered(string(buf[:n])))
	}
}

// fault is the error of a socket. That a TCP connection is refused by ICMPv6
// comes by the queue of errors: the refusal arrives before the system call that
// connects is over, and is forgotten until the next packet is sent, a second
// later.
func (t *try) fault() error {
	if code, err := unix.GetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
		return unix.Errno(code)
	}
	oob := make([]byte, 256)
	_, n, _, _, err := unix.Recvmsg(t.fd, make([]byte, 256), oob, unix.MSG_ERRQUEUE)
	if err != nil {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 || len(messages[0].Data) < 4 {
		return nil
	}
	if code := binary.NativeEndian.Uint32(messages[0].Data); code != 0 {
		return unix.Errno(code)
	}
	return nil
}

func (b *burst) end(t *try, result string) {
	t.result = result
	delete(b.open, int32(t.fd))
	_ = unix.Close(t.fd)
}

func outcome(err error) string {
	if errors.Is(err, unix.ECONNREFUSED) {
		return l4.Rejected.String()
	}
	return "error: " + err.Error()
}

// answered says who answered, and as whom the client was seen.
func (t *try) answered(text string) string {
	server, client, ok := strings.Cut(text, " ")
	switch {
	case !ok:
		return fmt.Sprintf("error: the answer %q", text)
	case server == t.Destination.String() && client == t.Source.String():
		return l4.Pass.String()
	case client != t.Source.String():
		server += " masqueraded"
	}
	return server
}
