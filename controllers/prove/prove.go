// Package prove shows in a user's own cluster that nothing is dropped: it makes
// a small application behind an Ingress, rolls it out again and again under a
// steady load that never retries, counts, and removes what it made.
package prove

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/prove/load"
)

// Options say where the proof takes place.
type Options struct {
	// Client needs to create, get and delete Deployments, Services and
	// Ingresses in Namespace, and to patch Deployments.
	Client    client.Client
	Namespace string
	// Name of everything that is made, and the first label of the host.
	Name string
	// IngressClass of the Ingress.
	IngressClass string
	// Address is HOST:PORT where the controller takes HTTPS; empty: what it
	// writes into the status of the Ingress, port 443.
	Address string
	// Image of Portico for the application; its own is good.
	Image       string
	PullSecrets []string
	// Rollouts of the application under load.
	Rollouts int
	// Connections of HTTP/1.1, and as many of HTTP/2.
	Connections int
	// Timeout of each step: a roll-out, an address, the first answer.
	Timeout time.Duration
	// Progress is told what is going on.
	Progress io.Writer
}

// poll is how often objects are looked at.
const poll = 250 * time.Millisecond

// lookGrace is how much longer than the wait a look may last.
const lookGrace = 5 * time.Second

// A proof is one run.
type proof struct {
	Options
	host string
}

// Run makes the application, rolls it out under load, and returns what became
// of the requests. Whatever it made is deleted, also when ctx ends.
func Run(ctx context.Context, opts Options) (result *load.Result, err error) {
	p := &proof{Options: opts, host: opts.Name + ".portico.test"}
	defer func() { err = errors.Join(err, p.remove(context.WithoutCancel(ctx))) }()
	if err := p.deploy(ctx); err != nil {
		return nil, err
	}
	address, err := p.address(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.answers(ctx, address); err != nil {
		return nil, err
	}
	return p.underLoad(ctx, address)
}

func (p *proof) say(format string, args ...any) { fmt.Fprintf(p.Progress, format+"\n", args...) }

// deploy makes the objects and waits until the application is ready.
func (p *proof) deploy(ctx context.Context) error {
	p.say("making the application %s in namespace %s", p.Name, p.Namespace)
	for _, obj := range p.objects() {
		if err := p.Client.Create(ctx, obj); err != nil {
			return fmt.Errorf("create %T %s: %w", obj, p.Name, err)
		}
	}
	return p.rolledOut(ctx)
}

// rolledOut waits until every pod is of the newest template and ready.
func (p *proof) rolledOut(ctx context.Context) error {
	return p.eventually(ctx, "the application does not become ready", func(ctx context.Context) error {
		var d appsv1.Deployment
		if err := p.Client.Get(ctx, p.key(), &d); err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas < replicas || s.AvailableReplicas < replicas || s.Replicas > replicas {
			return fmt.Errorf("of %d pods, %d are new and %d ready%s", s.Replicas, s.UpdatedReplicas, s.AvailableReplicas, p.stuck(ctx))
		}
		return nil
	})
}

// stuck says what the pods' containers wait for, if we may look: the pods are
// removed before anybody else can.
func (p *proof) stuck(ctx context.Context) string {
	var pods corev1.PodList
	if err := p.Client.List(ctx, &pods, client.InNamespace(p.Namespace), client.MatchingLabels(p.labels())); err != nil {
		return "; kubectl get events -n " + p.Namespace + " says more"
	}
	reasons := map[string]bool{}
	for _, pod := range pods.Items {
		for _, c := range pod.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Message != "" {
				reasons["; "+w.Reason+": "+w.Message] = true
			}
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				reasons["; "+c.Reason+": "+c.Message] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(reasons)), "")
}

// address is where requests are sent.
func (p *proof) address(ctx context.Context) (address string, err error) {
	if p.Address != "" {
		return p.Address, nil
	}
	err = p.eventually(ctx, "the Ingress got no address: is class "+p.IngressClass+" served? Else say where with --address", func(ctx context.Context) error {
		var ing networkingv1.Ingress
		if err := p.Client.Get(ctx, p.key(), &ing); err != nil {
			return err
		}
		for _, a := range ing.Status.LoadBalancer.Ingress {
			if address = a.IP + a.Hostname; address != "" {
				address = net.JoinHostPort(address, "443")
				return nil
			}
		}
		return errors.New("its status is empty")
	})
	return address, err
}

// answers waits for the first answer of the application.
func (p *proof) answers(ctx context.Context, address string) error {
	transport := &http.Transport{TLSClientConfig: p.tls(), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	return p.eventually(ctx, "no answer for https://"+p.host+"/ at "+address, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.host+"/", nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get(backendField) == "" {
			return fmt.Errorf("status %s, not from the application", resp.Status)
		}
		return nil
	})
}

// tls trusts everybody: what is proved is that requests are answered, over a
// synthetic host for which there is no certificate; nothing secret is sent.
func (p *proof) tls() *tls.Config {
	return &tls.Config{ServerName: p.host, InsecureSkipVerify: true}
}

func (p *proof) underLoad(ctx context.Context, address string) (*load.Result, error) {
	p.say("sending requests for https://%s/ to %s, over %d connections of HTTP/1.1 and %d of HTTP/2", p.host, address, p.Connections, p.Connections)
	loading, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan *load.Result, 1)
	go func() {
		done <- load.Run(loading, load.Options{Addr: address, Host: p.host, TLS: p.tls(), H1: p.Connections, H2: p.Connections, Post: 5})
	}()
	err := p.rollouts(ctx)
	stop()
	return <-done, err
}

func (p *proof) rollouts(ctx context.Context) error {
	for i := range p.Rollouts {
		begun := time.Now()
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"portico.dev/rollout":"%d"}}}}}`, i+1)
		d := &appsv1.Deployment{ObjectMeta: p.meta()}
		if err := p.Client.Patch(ctx, d, client.RawPatch(mergePatch, []byte(patch))); err != nil {
			return fmt.Errorf("patch Deployment %s: %w", p.Name, err)
		}
		if err := p.rolledOut(ctx); err != nil {
			return err
		}
		p.say("rolling update %d of %d took %v", i+1, p.Rollouts, time.Since(begun).Round(100*time.Millisecond))
	}
	return nil
}

// remove deletes what was made, as far as it was.
func (p *proof) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	p.say("removing the application")
	var errs []error
	for _, obj := range p.objects() {
		if err := p.Client.Delete(ctx, obj, client.PropagationPolicy("Background")); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete %T %s: %w; delete it by hand", obj, p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// eventually tries until a condition holds; otherwise the error begins with why
// and ends with what the last try said.
func (p *proof) eventually(ctx context.Context, why string, condition func(context.Context) error) error {
	last := errors.New("it was never looked at")
	// A look that would be over too late is not begun by the client, which then says
	// only that: so each may last a little longer than the wait.
	looking, done := context.WithTimeout(ctx, p.Timeout+lookGrace)
	defer done()
	err := wait.PollUntilContextTimeout(ctx, poll, p.Timeout, true, func(context.Context) (bool, error) {
		if err := condition(looking); looking.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", why, last)
	}
	return nil
}
