package certs

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// SecretWriter creates Secrets, and updates those that it is given with the
// resourceVersion that they had.
type SecretWriter interface {
	Create(context.Context, *corev1.Secret) error
	Update(context.Context, *corev1.Secret) error
}

// Secrets writes by a client.
type Secrets struct{ Client corev1client.SecretsGetter }

// Create creates a Secret.
func (s Secrets) Create(ctx context.Context, secret *corev1.Secret) error {
	_, err := s.Client.Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	return err
}

// Update replaces a Secret as it was read.
func (s Secrets) Update(ctx context.Context, secret *corev1.Secret) error {
	_, err := s.Client.Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}

// writeAgain is how long after a failure a Secret is written again, unless
// something is heard of it before.
const writeAgain = time.Minute

// attempt is what was last tried with a Secret. It is tried again when something
// was heard of the Secret since, when there is another certificate, or when it
// failed long ago: neither a slow watch nor a missing right causes a stream of
// writes.
type attempt struct {
	seen   uint64 // what was known of the Secret
	chain  string
	failed time.Time // zero: it did not fail
}

// write keeps the Secrets of managed entries right until ctx ends.
func (c *Controller) write(ctx context.Context) {
	tried := make(map[certstore.SecretRef]attempt)
	for {
		c.mu.Lock()
		planned := c.planned
		jobs := c.jobs(tried)
		c.mu.Unlock()
		for _, j := range jobs {
			if ctx.Err() != nil {
				return
			}
			err := j.do(ctx, c.opts.Secrets)
			c.wrote(j, err)
			if err != nil {
				j.attempt.failed = c.opts.Now()
			}
			tried[j.ref] = j.attempt
		}
		timer := time.NewTimer(writeAgain)
		select {
		case <-planned:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// job is one Secret to write.
type job struct {
	ref     certstore.SecretRef
	secret  *corev1.Secret
	create  bool
	attempt attempt
	again   bool // it has failed like this before
	news    news
}

func (j *job) do(ctx context.Context, w SecretWriter) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if j.create {
		return w.Create(ctx, j.secret)
	}
	return w.Update(ctx, j.secret)
}

// jobs returns what there is to write. Called with mu held.
func (c *Controller) jobs(tried map[certstore.SecretRef]attempt) []job {
	now := c.opts.Now()
	var out []job
	add := func(ref certstore.SecretRef, secret *corev1.Secret, create bool, n news) {
		j := job{ref: ref, secret: secret, create: create, news: n, attempt: attempt{seen: c.secrets[ref].seen, chain: string(secret.Data[corev1.TLSCertKey])}}
		last, ok := tried[ref]
		same := ok && last.seen == j.attempt.seen && last.chain == j.attempt.chain
		j.again = same
		if !same || !last.failed.IsZero() && now.Sub(last.failed).Abs() >= writeAgain {
			out = append(out, j)
		}
	}
	for _, e := range c.plan.entries {
		r := c.recordOf(e)
		state, was := c.secrets[e.secret], c.objects[e.secret]
		e.state = state
		switch {
		case !e.managed() || state.phase == unknown || state.phase == unreadable || state.phase == present && (!state.managed || was == nil):
		case state.phase == absent && r.cert != nil:
			add(e.secret, newTLSSecret(e.secret, r.pair), true, news{})
		case state.phase == absent:
		case r.cert != nil && better(r, e, now):
			add(e.secret, renewed(was, r.pair), false, news{})
		case !state.written:
			add(e.secret, adopted(was, e.wanted.Issuer.Name), false, adoption(e, now))
		}
	}
	for _, ref := range c.plan.released {
		if was := c.objects[ref]; was != nil && c.secrets[ref].written {
			add(ref, released(was), false, c.release(ref))
		}
	}
	return out
}

func newTLSSecret(ref certstore.SecretRef, r *acme.Record) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ref.Namespace, Name: ref.Name,
			Labels: map[string]string{ManagedLabel: "true"}, Annotations: map[string]string{issuedBy: r.Issuer, issuedAs: sequence(r)},
		},
		Type: corev1.SecretTypeTLS,
		Data: withCA(map[string][]byte{corev1.TLSCertKey: r.Chain, corev1.TLSPrivateKeyKey: r.Key}, r.Roots),
	}
}

// renewed is a Secret of ours with a new certificate. Everything else in it
// stays, but for the CA of another issuer.
func renewed(was *corev1.Secret, r *acme.Record) *corev1.Secret {
	s := adopted(was, r.Issuer)
	s.Annotations[issuedAs] = sequence(r)
	s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey] = r.Chain, r.Key
	withCA(s.Data, r.Roots)
	return s
}

func sequence(r *acme.Record) string { return strconv.FormatInt(r.Sequence, 10) }

// maxSequence is beyond every clock's time in Unix seconds (year 9999): others can
// write what they like into an annotation.
const maxSequence = 253402300799

// parseSequence reads what sequence wrote; 0: it did not.
func parseSequence(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= maxSequence {
		return 0
	}
	return n
}

// withCA puts what clients should trust beside a certificate of a CA of our own,
// under the name that they look for; there is none otherwise.
func withCA(data map[string][]byte, roots []byte) map[string][]byte {
	delete(data, corev1.ServiceAccountRootCAKey)
	if len(roots) > 0 {
		data[corev1.ServiceAccountRootCAKey] = roots
	}
	return data
}

// adopted is a Secret that was handed over, marked as written by us.
func adopted(was *corev1.Secret, issuer string) *corev1.Secret {
	s := was.DeepCopy()
	s.Annotations = maps.Clone(s.Annotations)
	if s.Annotations == nil {
		s.Annotations = make(map[string]string)
	}
	if s.Data == nil {
		s.Data = make(map[string][]byte)
	}
	s.Annotations[issuedBy] = issuer
	delete(s.Annotations, issuedAs)
	return s
}

// released is a Secret that is not ours any more.
func released(was *corev1.Secret) *corev1.Secret {
	s := was.DeepCopy()
	delete(s.Labels, ManagedLabel)
	delete(s.Annotations, issuedBy)
	delete(s.Annotations, issuedAs)
	return s
}

// recordOf returns the record of a managed entry. Called with mu held.
func (c *Controller) recordOf(e entry) stored {
	if !e.managed() {
		return stored{}
	}
	return c.records[e.wanted.ID()]
}

// wrote remembers why a Secret could not be written.
func (c *Controller) wrote(j job, err error) {
	c.mu.Lock()
	last, had := c.unsaved[j.ref]
	switch {
	case err == nil:
		delete(c.unsaved, j.ref)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err) && c.secrets[j.ref].phase == absent:
		// The watch will say what is there now.
	default:
		c.unsaved[j.ref] = diag.OneLine(err.Error(), diag.MaxNote)
	}
	now, has := c.unsaved[j.ref]
	c.mu.Unlock()
	switch {
	case err == nil:
		c.opts.Log.Info("wrote a Secret", "secret", j.ref.String(), "created", j.create)
		c.tell(j.news.to, j.news.done)
	case j.news.failed.Reason != "" && has && !j.again:
		c.opts.Log.Info("the label of a Secret could not be taken away", "secret", j.ref.String(), "error", now)
		c.tell(j.news.to, j.news.failed)
	case j.news.failed.Reason == "" && has && now != last:
		c.opts.Log.Info("a certificate could not be written into its Secret; it is served from the storage", "secret", j.ref.String(), "error", now)
	}
	if had != has || now != last {
		c.Wake()
	}
}

// tell tells the owners of Ingresses of a step.
func (c *Controller) tell(to []diag.Ref, s acme.Step) {
	if c.opts.Events == nil || s.Reason == "" {
		return
	}
	for _, ref := range to {
		c.opts.Events.Tell(ref, s)
	}
}

// writeProblems reports the Secrets that could not be written. Only the elected
// replica knows them, and only it tells. Called with mu held.
func (c *Controller) writeProblems(p *plan) []diag.Problem {
	refs := p.refs()
	for ref := range c.unsaved {
		if _, ok := refs[ref]; !ok {
			delete(c.unsaved, ref)
		}
	}
	var out []diag.Problem
	for _, e := range p.entries {
		why, ok := c.unsaved[e.secret]
		switch {
		case c.opts.Secrets == nil:
			why, ok = c.opts.Unwritten, c.opts.Unwritten != "" && e.state.phase != present && c.recordOf(e).cert != nil
		case e.state.phase == unreadable:
			why, ok = "it cannot be read", true
		}
		if !ok || !e.managed() {
			continue
		}
		remedy := "It is tried again"
		switch {
		case c.opts.Secrets == nil:
			remedy = "Leave it as it is, or allow it"
		case strings.Contains(why, "forbidden"):
			remedy = fmt.Sprintf("Allow create and update of Secrets in namespace %s to Portico's service account (chart: acme.secrets), or leave it as it is", e.secret.Namespace)
		}
		out = append(out, diag.Problem{Object: e.origin.Ref, Generation: e.origin.Generation, Field: e.field, Reason: ReasonNotWritten,
			Message: fmt.Sprintf("Secret %s is not written, the certificate is served from Portico's storage: %s", e.secret, why), Remedy: remedy})
	}
	return out
}
