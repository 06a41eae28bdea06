package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Options configure a Controller. All but Local, Ingresses, Secrets, Unwritten,
// Events, Roots, Metrics, Draining and Now are required.
type Options struct {
	Issuers *acme.Issuers
	// Local gives certificates to Ingresses that ask no issuer, for hosts that
	// it is for and whose Secret is missing; nil: nobody does.
	Local   *acme.Issuer
	Storage acme.Storage
	Tokens  *acme.Tokens
	Addrs   acme.Addrs
	// Identity names this process in records.
	Identity string
	// Ingresses returns those that are ours, as they are now; nil: those that
	// Replace was given. They are not written to.
	Ingresses func(context.Context) ([]*networkingv1.Ingress, error)
	Publisher *publish.Publisher
	Certs     *certstore.Store
	// Secrets writes the Secrets that spec.tls names; nil: certificates are
	// served from the storage only.
	Secrets SecretWriter
	// Unwritten says why there are no Secrets to write, for those who look
	// for theirs; empty: nobody expects any.
	Unwritten string
	// Events are told of each step of an order; nil: only the log is.
	Events EventWriter
	// Roots is told what clients should trust of an issuer that is a CA of our
	// own; may be nil.
	Roots   func(issuer string, pem []byte)
	Metrics *acme.Metrics
	// Draining is closed when no order is to begin any more; may be nil.
	Draining <-chan struct{}
	Now      func() time.Time
	// Zap is the process's log core, for certmagic; Log is the same for us.
	Zap *zap.Logger
	Log logr.Logger
}

// Controller plans and serves in every replica, and orders in the one that is
// elected. Its methods are safe for concurrent use.
type Controller struct {
	opts    Options // const after New
	inFiles bool    // const after New: Replace tells of Ingresses and Secrets
	manager *acme.Manager
	stapler *acme.Stapler
	wake    chan struct{}
	first   chan struct{} // closed with the first plan; by Start only

	mu      sync.Mutex // protects the following
	plan    *plan
	planned chan struct{} // closed and replaced with every plan and record
	secrets map[certstore.SecretRef]secretState
	objects map[certstore.SecretRef]*corev1.Secret // those with our label
	records map[string]stored
	standIn map[certstore.SecretRef]struct{} // set in the certificate store
	unsaved map[certstore.SecretRef]string   // why a Secret could not be written
	seen    uint64                           // counts what was heard of Secrets
	folder  []*networkingv1.Ingress          // given by Replace
	given   bool                             // what the local issuer gives is served
}

// stored is a record, and its certificate, parsed once; nil: none.
type stored struct {
	*acme.Record
	cert *certstore.Certificate
	pair *acme.Record // that cert is of: Record may be older; nil with cert
}

// NewController returns a Controller that knows nothing yet.
func NewController(opts Options) *Controller {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Metrics == nil {
		opts.Metrics = acme.NewMetrics()
	}
	c := &Controller{
		opts: opts, wake: make(chan struct{}, 1), first: make(chan struct{}), plan: &plan{}, planned: make(chan struct{}),
		secrets: make(map[certstore.SecretRef]secretState), objects: make(map[certstore.SecretRef]*corev1.Secret),
		records: make(map[string]stored), standIn: make(map[certstore.SecretRef]struct{}), unsaved: make(map[certstore.SecretRef]string),
	}
	c.manager = acme.New(acme.Options{
		Storage: opts.Storage, Tokens: opts.Tokens, Addrs: opts.Addrs, Identity: opts.Identity,
		Observe: c.observe, Changed: c.SetRecord, Roots: opts.Roots, Metrics: opts.Metrics, Draining: opts.Draining, Now: opts.Now, Log: opts.Zap,
	})
	if c.opts.Ingresses == nil {
		c.opts.Ingresses, c.inFiles = c.folderIngresses, true
	}
	c.stapler = acme.NewStapler(acme.StaplerOptions{Changed: c.Wake, Now: opts.Now, Log: opts.Zap})
	return c
}

// Wake says that something that a plan is made from may have changed.
func (c *Controller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

const (
	// gather bounds how often a plan is made.
	gather = 100 * time.Millisecond
	// replan is how often one is made at least, although nothing changed.
	replan = time.Hour
)

// Start plans and serves until ctx ends.
func (c *Controller) Start(ctx context.Context) error {
	var staples sync.WaitGroup
	defer staples.Wait()
	staples.Go(func() { c.stapler.Start(ctx) })
	for {
		changed := c.opts.Publisher.Changed()
		if err := c.reconcile(ctx); err != nil {
			c.opts.Log.Error(err, "certificates stay as they were planned last")
		}
		if !pause(ctx, gather) {
			return nil
		}
		timer := time.NewTimer(c.planHolds())
		select {
		case <-c.wake:
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Lead places orders, and writes Secrets, until ctx ends. It is for one replica
// at a time; orders are safe even if there are two.
func (c *Controller) Lead(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() {
		if err := c.manager.Start(ctx); err != nil && ctx.Err() == nil {
			c.opts.Log.Error(err, "no certificates are ordered until another election")
		}
	})
	if c.opts.Secrets != nil {
		group.Go(func() { c.write(ctx) })
	}
	if c.opts.Events != nil {
		group.Go(func() { c.opts.Events.Run(ctx) })
	}
	group.Wait()
	c.mu.Lock()
	clear(c.unsaved) // another replica knows it from now on
	c.mu.Unlock()
	c.Wake()
}

// NeedLeaderElection tells controller-runtime that every replica plans.
func (*Controller) NeedLeaderElection() bool { return false }

// problemSource names us among the sources of problems.
const problemSource = "certificates"

// reconcile makes a plan and acts on it. Before the first table the Secrets may
// not have been read.
func (c *Controller) reconcile(ctx context.Context) error {
	snap := c.opts.Publisher.Snapshot()
	if snap == nil {
		return nil
	}
	list, err := c.opts.Ingresses(ctx)
	if err != nil {
		return fmt.Errorf("listing Ingresses: %w", err)
	}
	p := makePlan(world{issuers: c.opts.Issuers, local: c.opts.Local, ingresses: list, table: snap.Table, secrets: c.secretState, folder: c.inFiles, now: c.opts.Now()})
	c.manager.Want(p.wanted())
	c.mu.Lock()
	c.plan = p
	problems := slices.Concat(p.problems, c.writeProblems(p), c.leftProblems(p), c.keepsLabel(p))
	standIns, given := c.standIns(p), c.givenAll(p)
	c.mu.Unlock()
	for ref, in := range standIns {
		c.opts.Certs.SetStandIn(ref, in)
	}
	c.mu.Lock()
	c.given = c.given || given // what is added later makes nobody unready
	close(c.planned)
	c.planned = make(chan struct{})
	c.mu.Unlock()
	c.opts.Publisher.SetProblems(problemSource, problems)
	if !c.Planned() {
		close(c.first)
	}
	return nil
}

// planHolds returns how long the last plan is as good as another one, if nothing
// changes: until a certificate that it is about begins, ends or nears its end, which
// is no event.
func (c *Controller) planHolds() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plan.made.IsZero() {
		return replan
	}
	now := c.opts.Now()
	until := now.Add(replan)
	turns := func(leaf *x509.Certificate) {
		for _, at := range []time.Time{leaf.NotBefore, leaf.NotAfter.Add(-handOver), leaf.NotAfter.Add(time.Nanosecond)} {
			if at.After(c.plan.made) && at.Before(until) {
				until = at
			}
		}
	}
	for _, e := range c.plan.entries {
		if leaf := e.state.leaf(); leaf != nil {
			turns(leaf)
		}
	}
	for _, r := range c.records {
		if r.cert != nil {
			turns(r.cert.Leaf)
		}
	}
	return max(until.Sub(now), time.Second) // no plan can be made at times
}

// Planned reports whether a plan was made, so that what is stored is served.
func (c *Controller) Planned() bool {
	select {
	case <-c.first:
		return true
	default:
		return false
	}
}

// AwaitPlan waits for the first plan: a replica that serves before has none of
// the certificates that only the storage holds.
func (c *Controller) AwaitPlan(ctx context.Context) {
	select {
	case <-c.first:
	case <-ctx.Done():
	}
}

func (c *Controller) secretState(ref certstore.SecretRef) secretState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secrets[ref]
}

// Load reads the records that are stored, for those who watch nothing.
func (c *Controller) Load(ctx context.Context) error {
	list, err := c.opts.Storage.Records(ctx)
	for _, r := range list {
		c.SetRecord(r)
	}
	return err
}

// Replace implements folder.CertificateObserver. No Secret in a folder is ours
// to write.
func (c *Controller) Replace(ingresses []*networkingv1.Ingress, secrets map[certstore.SecretRef]*certstore.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen++
	c.folder = ingresses
	clear(c.secrets)
	for _, ing := range ingresses {
		for _, t := range ing.Spec.TLS {
			c.secrets[certstore.SecretRef{Namespace: ing.Namespace, Name: t.SecretName}] = secretState{phase: absent, seen: c.seen}
		}
	}
	for ref, cert := range secrets {
		c.secrets[ref] = secretState{phase: present, cert: cert, seen: c.seen}
	}
	c.Wake()
}

func (c *Controller) folderIngresses(context.Context) ([]*networkingv1.Ingress, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.folder, nil
}

// SecretDelivered implements ingress.SecretObserver.
func (c *Controller) SecretDelivered(s *corev1.Secret, cert *certstore.Certificate) {
	ref := certstore.SecretRef{Namespace: s.Namespace, Name: s.Name}
	state := secretState{phase: present, managed: s.Labels[ManagedLabel] == "true", cert: cert}
	state.issuer, state.written = s.Annotations[issuedBy]
	state.sequence = parseSequence(s.Annotations[issuedAs])
	c.setSecret(ref, state, s)
}

// SecretAbsent implements ingress.SecretObserver.
func (c *Controller) SecretAbsent(ref certstore.SecretRef, readable bool) {
	state := secretState{phase: absent}
	if !readable {
		state.phase = unreadable
	}
	c.setSecret(ref, state, nil)
}

// SecretForgotten implements ingress.SecretObserver.
func (c *Controller) SecretForgotten(ref certstore.SecretRef) {
	c.setSecret(ref, secretState{}, nil)
}

func (c *Controller) setSecret(ref certstore.SecretRef, state secretState, s *corev1.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen++
	state.seen = c.seen
	if c.secrets[ref] = state; state.phase == unknown {
		delete(c.secrets, ref)
	}
	if delete(c.objects, ref); state.managed {
		c.objects[ref] = s
	}
	c.Wake()
}

// SetRecord takes a record as it is stored now. The news of the elected replica
// and of its watch may come in any order, so a certificate gives way to a newer
// one only.
func (c *Controller) SetRecord(r *acme.Record) {
	c.mu.Lock()
	last := c.records[r.ID]
	c.mu.Unlock()
	var cert *certstore.Certificate
	if len(r.Chain) > 0 && (last.pair == nil || !bytes.Equal(last.pair.Chain, r.Chain)) {
		var err error
		if cert, err = certstore.Parse(r.Chain, r.Key); err != nil {
			c.opts.Log.Error(err, "a stored certificate is of no use", "names", r.Names)
		}
	}
	c.mu.Lock()
	s := c.records[r.ID]
	s.Record = r
	if cert != nil && (s.pair == nil || follows(r.Sequence, cert, s.pair.Sequence, s.cert)) {
		cert.Source = "issuer " + r.Issuer
		s.cert, s.pair = cert, r
	}
	c.records[r.ID] = s
	c.mu.Unlock()
	c.opts.Tokens.Flight(r)
	c.Wake()
}

// DeleteRecord takes the news that a record is gone.
func (c *Controller) DeleteRecord(id string) {
	c.mu.Lock()
	delete(c.records, id)
	c.mu.Unlock()
	c.opts.Tokens.Land(id)
	c.Wake()
}

// observe tells of one step of an order.
func (c *Controller) observe(r *acme.Record, s acme.Step) {
	c.Wake()
	if c.opts.Events == nil {
		return
	}
	c.mu.Lock()
	entries := c.plan.byRecord()[r.ID]
	c.mu.Unlock()
	for _, e := range entries {
		c.opts.Events.Tell(e.origin.Ref, s)
	}
}
