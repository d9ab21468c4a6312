// The controllers of JobSet, as its own main starts them, without its webhooks and their certificates.
package main

import (
	"log"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	jobset "sigs.k8s.io/jobset/api/jobset/v1alpha2"
	"sigs.k8s.io/jobset/pkg/controllers"
	"sigs.k8s.io/jobset/pkg/metrics"
)

// The arguments: the namespace of the lease, and the address for metrics.
func main() {
	ctrl.SetLogger(zap.New(zap.UseDevMode(true)))
	scheme := runtime.NewScheme()
	must(clientgoscheme.AddToScheme(scheme))
	must(jobset.AddToScheme(scheme))
	metrics.Register()

	// What --kube-api-qps and --kube-api-burst would set; their defaults are 500.
	connection := ctrl.GetConfigOrDie()
	connection.QPS, connection.Burst = 1000, 2000
	manager, err := ctrl.NewManager(connection, ctrl.Options{
		Scheme:                  scheme,
		Metrics:                 server.Options{BindAddress: os.Args[2]},
		LeaderElection:          true,
		LeaderElectionNamespace: os.Args[1],
		LeaderElectionID:        "6d4f6a47.jobset.x-k8s.io",
		// Only so that the next one need not wait for the lease to expire.
		LeaderElectionReleaseOnCancel: true,
	})
	must(err)
	ctx := ctrl.SetupSignalHandler()
	must(controllers.SetupJobSetIndexes(ctx, manager.GetFieldIndexer()))
	must(controllers.SetupPodIndexes(ctx, manager.GetFieldIndexer()))
	client, recorder := manager.GetClient(), manager.GetEventRecorderFor
	must(controllers.NewJobSetReconciler(client, scheme, recorder("jobset")).SetupWithManager(manager))
	must(controllers.NewPodReconciler(client, scheme, recorder("pod")).SetupWithManager(manager))
	must(manager.Start(ctx))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
