// Package node follows Services, EndpointSlices, ServiceCIDRs and the node's
// own Node at an apiserver, and has the kernel forward accordingly: what
// kube-proxy does. One goroutine owns the plan and the kernel; what arrives
// when it is idle is committed at once, and what follows is gathered for half a
// millisecond and committed next.
package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/l4"
)

// Kernel is what forwards. All methods are called by one goroutine.
type Kernel interface {
	// Replace makes the kernel do what p says and nothing else, at once for
	// every new connection.
	Replace(ctx context.Context, p *l4.Plan) error
	// Apply programs a change on top of what was programmed last. After an
	// error, what is programmed is unknown, and Replace is called next.
	Apply(ctx context.Context, c *l4.Change) error
	// Disturbed receives when somebody else has changed what was programmed.
	Disturbed() <-chan struct{}
	// Affinity returns what lists the clients that keep their endpoint. That may
	// take long, and is called by another goroutine, once.
	Affinity(k l4.PortKey) (list func(context.Context) ([]l4.Sticky, error), err error)
}

// Conntrack forgets UDP flows to endpoints that are gone. Its methods are
// called one at a time.
type Conntrack interface {
	Clean(ctx context.Context, stale []l4.Stale) (deleted int, err error)
	// Reconcile does so for all flows that do not agree with a plan.
	Reconcile(ctx context.Context, p *l4.Plan) (deleted int, err error)
}

// Options say what a Controller follows and how the node is configured. Fixed
// after New.
type Options struct {
	Client    kubernetes.Interface
	Kernel    Kernel
	Conntrack Conntrack // nil: flows are left alone
	// Translate has the name of the node, and the addresses that Services may
	// ask for.
	Translate translate.NodeOptions
	Local     Local
	NodePorts NodePorts
	// MasqueradeAll replaces the source of every connection to a ClusterIP.
	MasqueradeAll bool
	// Audit is how often everything is programmed again, whether or not it is
	// thought to be needed; 0: every hour.
	Audit time.Duration
	// Addresses returns the node's own addresses; nil asks the kernel.
	Addresses func() ([]netip.Addr, error)
	Metrics   *Metrics
	Log       logr.Logger
}

const (
	// firstRetry and lastRetry bound the time between attempts to program
	// what could not be programmed.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	// defaultAudit is how often kube-proxy programs everything again.
	defaultAudit = time.Hour
)

// Controller keeps the kernel in step with the apiserver.
type Controller struct {
	// const after New
	opts    Options
	inbox   *inbox
	sweeper *sweeper
	checks  *healthChecks
	events  *events
	state   *state
	watches *watches
	// inspect carries questions to the goroutine that owns the plan.
	inspect chan func(*owner)
}

// New returns a Controller that Start runs.
func New(opts Options) (*Controller, error) {
	if opts.Client == nil || opts.Kernel == nil || opts.Metrics == nil || opts.Translate.NodeName == "" {
		return nil, errors.New("client, kernel, metrics and the node's name must be given")
	}
	if err := errors.Join(opts.Local.Validate(), opts.NodePorts.validate()); err != nil {
		return nil, err
	}
	if opts.Audit <= 0 {
		opts.Audit = defaultAudit
	}
	if opts.Addresses == nil {
		opts.Addresses = InterfaceAddresses
	}
	c := &Controller{opts: opts, inspect: make(chan func(*owner)), state: newState()}
	c.inbox = newInbox(func() { c.state.queued(); opts.Metrics.queued() })
	c.events = newEvents(opts.Client, opts.Translate.NodeName, opts.Log)
	c.checks = newHealthChecks(c.state.healthy, c.events.report, opts.Log)
	c.sweeper = newSweeper(opts.Conntrack, opts.Metrics, opts.Log)
	c.watches = newWatches(opts, c.inbox)
	return c, nil
}

// Start runs until ctx is done. What is programmed stays when it ends.
func (c *Controller) Start(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range c.watches.all {
		group.Go(func() error { w.run(ctx); return nil })
	}
	group.Go(func() error { c.sweeper.run(ctx); return nil })
	group.Go(func() error { c.events.run(ctx); return nil })
	group.Go(func() error { c.checks.run(ctx); return nil })
	group.Go(func() error { newOwner(c).run(ctx); return nil })
	return group.Wait()
}

// Programmed is closed when the first complete picture is in the kernel.
func (c *Controller) Programmed() <-chan struct{} { return c.state.programmed }

// ask runs a question in the goroutine that owns the plan.
func (c *Controller) ask(ctx context.Context, question func(*owner)) error {
	done := make(chan struct{})
	select {
	case c.inspect <- func(o *owner) { question(o); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the plan is busy: %w", ctx.Err())
	}
}
