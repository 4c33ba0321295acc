import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * An application with SQL of its own, by JDBC, whose searches follow a migration of its table and back. It holds no model: see
 * psycopg_app.py, which does the same.
 *
 * <p>echo "How do I reset a password?" | java -cp postgresql.jar JdbcApp.java view|function
 */
public class JdbcApp {
    static final String COLLECTION = "articles";
    /** After a swap or rollback: the vector is of the other model; the transaction is older than the move. */
    static final Set<String> MOVED = Set.of("RV004", "40001");
    static final int TRIES = 5;
    static final String VIEW =
            "SELECT id, title FROM articles_seen WHERE lang <> 'de' AND revector.expect(?, ?) "
                    + "ORDER BY embedding <=> ?::vector LIMIT 5";
    static final String FUNCTION =
            "SELECT a.id, a.title FROM revector.search(?, encoder_fp => ?, query => ?::vector, k => 20) s "
                    + "JOIN articles a ON a.id = s.doc_id::bigint WHERE a.lang <> 'de' ORDER BY s.score DESC LIMIT 5";

    /** A vector as pgvector writes it, and the fingerprint of the model that made it. */
    record Embedded(String vector, String encoderFp) {}

    // revector serve speaks HTTP/1.1: without this, the client first asks for an upgrade to HTTP/2.
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final Pattern VECTOR = Pattern.compile("\"embedding\"\\s*:\\s*(\\[[^]]*])");
    static final Pattern FINGERPRINT = Pattern.compile("\"encoder_fp\"\\s*:\\s*\"([^\"]*)\"");

    static Embedded embed(String question) throws IOException, InterruptedException {
        String quoted = question.replace("\\", "\\\\").replace("\"", "\\\"");
        HttpRequest request =
                HttpRequest.newBuilder(URI.create(System.getenv("REVECTOR_URL") + "/v1/embeddings"))
                        .header("Authorization", "Bearer " + System.getenv().getOrDefault("REVECTOR_KEY", ""))
                        .header("Content-Type", "application/json")
                        .POST(HttpRequest.BodyPublishers.ofString(
                                "{\"model\": \"" + COLLECTION + ":query\", \"input\": \"" + quoted + "\"}"))
                        .build();
        HttpResponse<String> answer = HTTP.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) throw new IOException(answer.body());
        return new Embedded(first(VECTOR, answer.body()), first(FINGERPRINT, answer.body()));
    }

    static String first(Pattern pattern, String text) throws IOException {
        Matcher found = pattern.matcher(text);
        if (!found.find()) throw new IOException("no " + pattern + " in " + text);
        return found.group(1);
    }

    /** Vectors are kept until the database says that another model serves. */
    static final Map<String, Embedded> KEPT = new HashMap<>();

    static List<String> ask(Connection connection, String way, String question) throws Exception {
        for (int tries = 1; ; tries++) {
            if (!KEPT.containsKey(question)) KEPT.put(question, embed(question));
            Embedded made = KEPT.get(question);
            try (PreparedStatement ask = connection.prepareStatement(way.equals("view") ? VIEW : FUNCTION)) {
                ask.setString(1, COLLECTION);
                ask.setString(2, made.encoderFp());
                ask.setString(3, made.vector());
                List<String> found = new ArrayList<>();
                try (ResultSet rows = ask.executeQuery()) {
                    while (rows.next()) found.add(rows.getLong(1) + " " + rows.getString(2));
                }
                return found;
            } catch (SQLException error) {
                if (!MOVED.contains(error.getSQLState()) || tries == TRIES) throw error;
                KEPT.clear();
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = DriverManager.getConnection(System.getenv("JDBC_URL"))) {
            connection.createStatement().execute("SET hnsw.iterative_scan = strict_order");
            BufferedReader questions = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String question; (question = questions.readLine()) != null; ) {
                for (String row : ask(connection, arguments[0], question)) System.out.println(row);
                System.out.println();
            }
        }
    }
}
