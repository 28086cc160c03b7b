"""The same graph in igraph and networkx: paths, ranks, parts."""

import igraph
import networkx


def famous():
    graph = igraph.Graph.Famous("Zachary")
    rank = graph.pagerank()
    return [graph.vcount(), graph.ecount(), rank.index(max(rank)), graph.distances(16, 33)[0][0], len(graph.community_fastgreedy().as_clustering()), len(graph.layout("fr"))]


def same():
    club = networkx.karate_club_graph()
    rank = networkx.pagerank(club, weight=None)
    return [club.number_of_nodes(), club.number_of_edges(), max(rank, key=rank.get), networkx.shortest_path_length(club, 16, 33)]


def files():
    graph = igraph.Graph.Tree(7, 2)
    graph.write_graphml("/tmp/tree.graphml")
    return [graph.isomorphic(igraph.Graph.Read_GraphML("/tmp/tree.graphml")), networkx.is_tree(networkx.read_graphml("/tmp/tree.graphml").to_undirected())]


def handler(event, context):
    return globals()[event["case"]]()
