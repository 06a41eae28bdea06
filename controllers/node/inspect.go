package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// Inspect answers what is programmed, in words: /show for everything or for a
// Service (service=NAMESPACE/NAME), and /trace for what becomes of a packet
// (from, to, protocol, interface). What it says is what the kernel was given.
func (c *Controller) Inspect() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /show", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, func(ctx context.Context, p *l4.Plan, out io.Writer) error {
			return c.show(ctx, p, r.FormValue("service"), out)
		})
	})
	mux.HandleFunc("GET /trace", func(w http.ResponseWriter, r *http.Request) {
		k, err := parsePacket(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.answer(w, r, func(_ context.Context, p *l4.Plan, out io.Writer) error { return c.trace(p, k, out) })
	})
	return mux
}

// answer answers a question about what is programmed now. The goroutine that
// owns the plan does no more for it than to copy a list.
func (c *Controller) answer(w http.ResponseWriter, r *http.Request, question func(context.Context, *l4.Plan, io.Writer) error) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	var text strings.Builder
	plan, err := owned(ctx, c, (*owner).programmed)
	if err == nil {
		err = question(ctx, plan(), &text)
	}
	if err != nil {
		why := err.Error()
		for _, w := range c.Waiting() {
			why += "\n" + w
		}
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text.String())
}

// owned returns what a question finds, in the goroutine that owns the plan.
func owned[T any](ctx context.Context, c *Controller, question func(*owner) (T, error)) (found T, err error) {
	if busy := c.ask(ctx, func(o *owner) { found, err = question(o) }); busy != nil {
		return found, busy
	}
	return found, err
}

func parsePacket(r *http.Request) (l4.Packet, error) {
	k := l4.Packet{Interface: r.FormValue("interface")}
	var err error
	if k.Source, err = netip.ParseAddr(r.FormValue("from")); err != nil {
		return k, fmt.Errorf("from: %q is not an address", r.FormValue("from"))
	}
	if k.Destination, err = netip.ParseAddrPort(r.FormValue("to")); err != nil {
		return k, fmt.Errorf("to: %q is not of the form ADDRESS:PORT", r.FormValue("to"))
	}
	k.Source = k.Source.Unmap()
	k.Destination = netip.AddrPortFrom(k.Destination.Addr().Unmap(), k.Destination.Port())
	if k.Source.Is4() != k.Destination.Addr().Is4() {
		return k, fmt.Errorf("from %s to %s: the two are of different families", k.Source, k.Destination.Addr())
	}
	var ok bool
	if k.Protocol, ok = l4.ParseProtocol(strings.ToUpper(r.FormValue("protocol"))); !ok {
		return k, fmt.Errorf("protocol: %q is not TCP, UDP or SCTP", r.FormValue("protocol"))
	}
	return k, nil
}

// trace follows a packet.
func (c *Controller) trace(p *l4.Plan, k l4.Packet, out io.Writer) error {
	own, err := c.opts.Addresses()
	if err != nil {
		return err
	}
	k.SourceLocal = k.Source.IsLoopback() || slices.Contains(own, k.Source)
	k.DestinationLocal = k.Destination.Addr().IsLoopback() || slices.Contains(own, k.Destination.Addr())
	outcome := p.Trace(k)
	fmt.Fprintf(out, "%s to %s/%s\n", k.Source, k.Destination, k.Protocol)
	for _, s := range outcome.Steps {
		fmt.Fprintf(out, "  %s\n", s)
	}
	if outcome.Action != l4.Forward {
		fmt.Fprintf(out, "%s\n", outcome.Action)
		return nil
	}
	for _, e := range outcome.Endpoints {
		how := ""
		if e.Masquerade {
			how = ", the source replaced"
		}
		fmt.Fprintf(out, "→ %s%s\n", e.Address, how)
	}
	return nil
}

// show writes what is programmed for a Service, or for all.
func (c *Controller) show(ctx context.Context, p *l4.Plan, service string, out io.Writer) error {
	found := false
	for _, f := range p.Forwardings {
		if service != "" && f.Key.Service.String() != service {
			continue
		}
		found = true
		if err := c.showForwarding(ctx, f, service != "", out); err != nil {
			return err
		}
	}
	if service != "" && !found {
		fmt.Fprintf(out, "nothing is programmed for Service %s: it does not exist, has no ClusterIP, or is another proxy's\n", service)
	}
	return nil
}

// showForwarding lists remembered clients only if it is asked to: all of them are
// in one map of the kernel, which takes time to read.
func (c *Controller) showForwarding(ctx context.Context, f *l4.Forwarding, listClients bool, out io.Writer) error {
	fmt.Fprintln(out, f.Key)
	for _, fr := range f.Fronts {
		at := fmt.Sprintf("%s %s", fr.Kind, netip.AddrPortFrom(fr.Address, fr.Port))
		if fr.Kind == l4.NodePort {
			at = fmt.Sprintf("NodePort %d", fr.Port)
		}
		fmt.Fprintf(out, "  %s: %s\n", at, rules(fr))
		if len(fr.SourceRanges) > 0 {
			fmt.Fprintf(out, "    only from %v\n", fr.SourceRanges)
		}
	}
	for _, r := range f.Refused {
		fmt.Fprintf(out, "  %s\n", refusal(f.Key, r))
	}
	showPool(out, "endpoints", f.Cluster, f)
	if len(f.Local) > 0 {
		showPool(out, "of them for policy Local", f.Local, f)
	}
	if f.Affinity == 0 {
		return nil
	}
	if !listClients {
		fmt.Fprintf(out, "  clients keep their endpoint for %s; show %s lists them\n", f.Affinity, f.Key.Service)
		return nil
	}
	list, err := owned(ctx, c, func(o *owner) (func(context.Context) ([]l4.Sticky, error), error) {
		return o.opts.Kernel.Affinity(f.Key)
	})
	if err != nil {
		return err
	}
	clients, err := list(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  clients keep their endpoint for %s; now remembered: %d\n", f.Affinity, len(clients))
	for _, c := range clients {
		fmt.Fprintf(out, "    %s → %s for %s more\n", c.Client, c.Endpoint, c.Expires.Round(time.Second))
	}
	return nil
}

// rules says what happens at a front, by origin where it differs.
func rules(f l4.Front) string {
	word := func(r l4.Rule) string {
		text := r.Verdict.String()
		if r.Masquerade {
			text += ", the source replaced"
		}
		return text
	}
	if f.Outside == f.Pod && f.Pod == f.Host {
		return word(f.Outside)
	}
	return fmt.Sprintf("from outside %s; from pods %s; from the node %s", word(f.Outside), word(f.Pod), word(f.Host))
}

func showPool(out io.Writer, name string, pool []netip.AddrPort, f *l4.Forwarding) {
	fmt.Fprintf(out, "  %s: %d\n", name, len(pool))
	for _, a := range pool {
		here := ""
		if slices.Contains(f.Hairpin, a) {
			here = " on this node"
		}
		fmt.Fprintf(out, "    %s%s\n", a, here)
	}
}
