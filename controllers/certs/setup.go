package certs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// What the storage needs in its namespace. To create and update Secrets in the
// namespaces of Ingresses is a right of its own, which the chart grants where it
// is asked to.
//
//+kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete,namespace=portico-acme
//+kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update;delete,namespace=portico-acme

// ClusterOptions configure what New adds to a manager. All but Unwritten,
// Identity, Metrics and Draining are required.
type ClusterOptions struct {
	Issuers *acme.Issuers
	Tokens  *acme.Tokens
	Addrs   acme.Addrs
	// Namespace is where the storage lies.
	Namespace string
	// Unwritten says why the Secrets that spec.tls names are not written;
	// empty: they are.
	Unwritten string
	// Identity names this replica; empty: the host's name and a random part.
	Identity  string
	Translate translate.Options
	Publisher *publish.Publisher
	Certs     *certstore.Store
	Metrics   *acme.Metrics
	// Draining is closed when no order is to begin any more; may be nil.
	Draining <-chan struct{}
	// Zap is the process's log core, for certmagic; Log is the same for us.
	Zap *zap.Logger
	Log logr.Logger
}

// Cluster is what New has added to a manager.
type Cluster struct {
	*Controller
	watch *Watch
}

// New adds to mgr, whose cache holds Ingress and IngressClass, what gets
// certificates for a cluster. It runs on every replica; Lead is for the elected
// one.
func New(mgr manager.Manager, o ClusterOptions) (*Cluster, error) {
	cfg := rest.CopyConfig(mgr.GetConfig())
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	clients, err := kubernetes.NewForConfigAndClient(cfg, mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("making a client for certificates: %w", err)
	}
	identity := o.Identity
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		identity = host + "_" + string(uuid.NewUUID())
	}
	c := &Cluster{}
	tracker := NewTracker(o.Translate, func() { c.Wake() })
	opts := Options{
		Issuers: o.Issuers, Tokens: o.Tokens, Addrs: o.Addrs, Identity: identity, Metrics: o.Metrics,
		Storage: NewStorage(clients.CoreV1(), clients.CoordinationV1(), StorageOptions{
			Namespace: o.Namespace, Identity: identity, Log: o.Log.WithName("storage"),
		}),
		Ingresses: tracker.Ours, Publisher: o.Publisher, Certs: o.Certs, Unwritten: o.Unwritten, Draining: o.Draining,
		Events: NewEvents(clients.CoreV1(), o.Log), Zap: o.Zap, Log: o.Log,
	}
	if o.Unwritten == "" {
		opts.Secrets = Secrets{clients.CoreV1()}
	}
	c.Controller = NewController(opts)
	c.watch = NewWatch(clients.CoreV1(), o.Namespace, o.Tokens, c.Controller, o.Log)
	return c, errors.Join(tracker.Follow(mgr.GetCache()), mgr.Add(c.Controller), mgr.Add(c.watch))
}

// AwaitStored waits until everything that is stored was delivered, or the
// apiserver has refused it.
func (c *Cluster) AwaitStored(ctx context.Context) { c.watch.Await(ctx) }

// Ready tells whether what is stored is served, and what is degraded.
func (c *Cluster) Ready() (ready bool, detail string) {
	settled, failure := c.watch.State()
	switch {
	case failure != "":
		return settled && c.Planned(), "certificates of our own cannot be read: " + failure
	case !settled:
		return false, "the stored certificates have not been delivered"
	case !c.Planned():
		return false, "the first plan has not been made"
	}
	return true, ""
}
