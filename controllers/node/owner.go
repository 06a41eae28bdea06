package node

import (
	"context"
	"errors"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// refreshAfter is how often the node's addresses are read, on which nobody
// sends events: they matter to NodePorts that answer at some addresses only.
const refreshAfter = 30 * time.Second

// gap is the least time between two commits. The first change after quiet is
// committed at once; those that follow within the gap wait for its end, and are
// committed together.
const gap = 500 * time.Microsecond

// repairGap is the least time between two repairs of what somebody changed who does
// not stop to.
const repairGap = 250 * time.Millisecond

// owner is the goroutine that owns the picture, the plan and the kernel.
type owner struct {
	*Controller
	after   func(time.Duration) <-chan time.Time // time.After; const after newOwner
	picture *picture
	planner *l4.Planner
	node    l4.Node // as the planner has it
	// addresses are the node's own as they were read last.
	addresses []netip.Addr
	local     *localEndpoints
	// void tells that what is programmed is unknown, so that everything must
	// be programmed.
	void  bool
	delay time.Duration    // before the next attempt; 0: the last one succeeded
	retry <-chan time.Time // when that is; nil: the last one succeeded
	calm  <-chan time.Time // until when nobody is heard who disturbs; nil: now
	began time.Time        // when the batch at hand was taken
}

func newOwner(c *Controller) *owner {
	return &owner{Controller: c, after: time.After, picture: newPicture(), void: true, local: newLocalEndpoints()}
}

func (o *owner) run(ctx context.Context) {
	audit, refresh := time.NewTicker(o.opts.Audit), time.NewTicker(refreshAfter)
	defer audit.Stop()
	defer refresh.Stop()
	for {
		inbox, disturbed, repaired := o.inbox.ready, o.opts.Kernel.Disturbed(), false
		if o.retry != nil {
			inbox = nil // what arrives is programmed with the next attempt
		}
		if o.calm != nil {
			disturbed = nil
		}
		select {
		case <-inbox:
		case <-o.retry:
			o.retry = nil
		case <-o.calm:
			o.calm = nil
			continue
		case <-disturbed:
			o.opts.Log.Info("somebody changed what was programmed: everything is programmed again")
			o.void, repaired = true, true
		case <-audit.C:
			o.void = true
		case <-refresh.C:
			o.picture.node.changed = true
		case question := <-o.inspect:
			question(o)
			continue
		case <-ctx.Done():
			return
		}
		if o.retry != nil {
			continue // whatever it was, the next attempt sees to it
		}
		o.work(ctx)
		if repaired {
			o.calm = o.after(repairGap)
		}
		o.gather(ctx)
	}
}

// gather lets what follows a change wait for a moment, so that a storm does not
// hold the kernel's lock on nftables all the time, which others need as well.
func (o *owner) gather(ctx context.Context) {
	select {
	case <-o.after(gap):
	case <-ctx.Done():
	}
}

// work takes what has arrived and commits it.
func (o *owner) work(ctx context.Context) {
	o.began = time.Now()
	o.state.take()
	for _, e := range o.inbox.take() {
		e(o.picture)
	}
	o.opts.Metrics.pending(o.picture)
	if !o.picture.complete() {
		return
	}
	o.state.setComplete()
	o.plan()
	err := o.commit(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		o.void = true
		o.delay = min(max(2*o.delay, firstRetry), lastRetry)
		o.retry = o.after(o.delay)
		o.opts.Metrics.failed()
		o.opts.Log.Error(err, "programming failed: everything will be programmed again", "after", o.delay.String())
	default:
		o.delay, o.retry = 0, nil
		o.state.commit()
		o.opts.Metrics.committed(o.picture, time.Now())
		o.picture.triggers, o.picture.endpointChanges, o.picture.serviceChanges = nil, 0, 0
		o.opts.Metrics.pending(o.picture)
	}
}

// plan tells the planner and the health checks what changed.
func (o *owner) plan() {
	p := o.picture
	if p.node.changed || o.planner == nil {
		p.node.changed = false
		o.setNode()
	}
	for n := range p.dirty {
		s := p.forwarded(n)
		if s == nil {
			o.planner.Delete(n)
		} else {
			o.planner.Set(s)
		}
		o.checks.set(n, s)
	}
	p.dirty = map[l4.Name]bool{} // to clear one that was large costs what it was
	o.events.report(p.problems...)
	p.problems = nil
}

// setNode hands over what is known of the node, if it is not the same.
func (o *owner) setNode() {
	addresses, err := o.opts.Addresses()
	if err != nil {
		o.opts.Log.Error(err, "reading the node's addresses; the last ones stay")
		addresses = o.addresses
	}
	o.addresses = addresses
	n := o.opts.nodeModel(o.picture, addresses)
	o.state.setEligible(eligible(o.picture.node.object))
	o.checks.listenOn(n.NodePorts)
	switch {
	case o.planner == nil:
		o.planner = l4.NewPlanner(n)
	case !equalNodes(n, o.node):
		o.planner.SetNode(n)
	}
	o.node = n
}

// commit programs what changed, or everything. The sweeper follows.
func (o *owner) commit(ctx context.Context) error {
	if o.void {
		plan := o.planner.Plan()
		if err := o.opts.Kernel.Replace(ctx, plan); err != nil {
			return err
		}
		o.void = false
		o.opts.Metrics.replaced(time.Since(o.began))
		o.local.reset(plan)
		o.opts.Log.V(1).Info("programmed everything", "forwardings", len(plan.Forwardings), "took", time.Since(o.began).String())
		for _, f := range plan.Forwardings {
			o.refused(f)
		}
		o.sweeper.reconcile(plan)
		o.opts.Metrics.noLocalEndpoints(o.local)
		return nil
	}
	change := o.planner.Take()
	if change.Empty() {
		return nil
	}
	if err := o.opts.Kernel.Apply(ctx, change); err != nil {
		return err
	}
	o.opts.Metrics.applied(time.Since(o.began))
	for _, k := range change.Delete {
		o.local.forget(k)
	}
	for _, u := range change.Set {
		o.local.set(u.Forwarding)
		o.refused(u.Forwarding)
	}
	o.sweeper.clean(change.Stale)
	o.opts.Metrics.noLocalEndpoints(o.local)
	return nil
}

// refused reports the addresses that a Service asks for and another has.
func (o *owner) refused(f *l4.Forwarding) {
	for _, r := range f.Refused {
		o.events.report(diag.Problem{
			Object: diag.Ref{Kind: "Service", Namespace: f.Key.Service.Namespace, Name: f.Key.Service.Name},
			Reason: ReasonAddressTaken, Message: refusal(f.Key, r),
			Remedy: "Give one of the two another address or port, or delete it",
		})
	}
}

// taintToBeDeleted is set by the cluster autoscaler on a node that it is about
// to remove (KEP-3836).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// eligible reports whether load balancers should send new connections to a
// node.
func eligible(n *corev1.Node) bool {
	if n == nil || n.DeletionTimestamp != nil {
		return false
	}
	for _, t := range n.Spec.Taints {
		if t.Key == taintToBeDeleted {
			return false
		}
	}
	return true
}

var errNotProgrammed = errors.New("nothing is programmed yet")

// programmed returns a function that makes the plan as it is in the kernel, for
// others than the owner to call.
func (o *owner) programmed() (func() *l4.Plan, error) {
	if o.void || o.planner == nil {
		return nil, errNotProgrammed
	}
	return o.planner.Snapshot(), nil
}
